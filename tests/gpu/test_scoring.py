"""Features and scores on a GPU: the CPU's numbers, in float32, also over two processes."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from diffexp.config.load import load_experiment
from diffexp.data.images import MemoryImages
from diffexp.evaluation.extractors.digits_v1 import load as digits_extractor
from diffexp.evaluation.extractors.inception import Inception
from diffexp.evaluation.metrics.metric_set import MetricSet
from diffexp.evaluation.reference import of_images
from diffexp.evaluation.sample_scores import score_samples
from diffexp.models.build import build_model
from diffexp.system.devices import full_float32
from tests.helpers.comparing import off
from tests.helpers.inception import write_random_inception
from tests.helpers.sets import digits, noisy, scores_of
from tests.helpers.small import SMALL

CPU = torch.device("cpu")


def scored(extractor):
    """Scores of noisy digits against digits."""
    compared = of_images(MemoryImages(digits()), extractor, 256, "test")
    images = noisy(digits(), 40)
    return scores_of(images, compared, extractor, 100)


def test_scores_are_the_cpus(device):
    there, here = (scored(digits_extractor().to(each)) for each in (CPU, device))
    assert here["fd"].value == pytest.approx(there["fd"].value, rel=1e-5)
    assert here["fd"].error == pytest.approx(there["fd"].error, rel=1e-3)
    assert here["kd"].value == pytest.approx(there["kd"].value, rel=1e-4)
    assert (here["precision"].value, here["recall"].value) == pytest.approx(
        (there["precision"].value, there["recall"].value), abs=2e-3
    )


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory):
    return write_random_inception(tmp_path_factory.mktemp("inception") / "inception.pth")


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_features_of_inception_are_the_cpus_whatever_a_program_allows(device, inception_weights, precision):
    extractor = Inception(inception_weights)
    images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    there = extractor(images)
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    for backend in backends:
        backend.fp32_precision = precision
    with torch.autocast(device.type, torch.bfloat16):
        here = extractor.to(device)(images.to(device))
    assert [backend.fp32_precision for backend in backends] == [precision] * 2
    assert here.values.dtype == torch.float32
    assert off(here.values, there.values) < 1e-5
    assert off(here.logits, there.logits) < 1e-5


def of_samples(device):
    """Scores of an untrained model's samples, and their features."""
    experiment = load_experiment("digits", SMALL)
    model, extractor = build_model(experiment).to(device), digits_extractor().to(device)
    sampler = experiment.sample_grid.samplers["ddim-5"]
    metrics = MetricSet.of(of_images(MemoryImages(digits()), extractor, 256, "test"), extractor, 101)
    sampled = score_samples(model, sampler, metrics, range(50, 151), seed=3, batch_size=20)
    leader = metrics.metrics["fd"]
    with leader.sync_context():
        return sampled.scores, leader.summary().features.cpu()


def in_a_process(rank, folder, device):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    with full_float32():
        scores, bank = of_samples(device)
    torch.save((scores["fd"].value, bank), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_on_one_gpu_agree_with_one(device, tmp_path):
    scores, bank = of_samples(device)
    # CUDA does not survive a fork
    method = "spawn" if device.type == "cuda" else "fork"
    mp.start_processes(in_a_process, (tmp_path, device), nprocs=2, start_method=method)
    for rank in range(2):
        value, theirs = torch.load(tmp_path / f"{rank}.pt")
        assert value == pytest.approx(scores["fd"].value, rel=1e-5)
        torch.testing.assert_close(theirs, bank, rtol=1e-4, atol=1e-4)


def test_samples_score_as_the_cpus(device):
    (there, _), (here, _) = of_samples(CPU), of_samples(device)
    # a pixel may be rounded to the next of 256 levels
    assert here["fd"].value == pytest.approx(there["fd"].value, rel=1e-3)
