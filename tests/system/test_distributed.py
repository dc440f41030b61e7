"""1, 2 and 4 processes gather the same."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from diffexp.config.load import load_experiment
from diffexp.errors import UserError
from diffexp.evaluation.extractors.base import Features
from diffexp.evaluation.extractors.digits_v1 import load as digits_extractor
from diffexp.evaluation.metrics import InceptionScore
from diffexp.evaluation.metrics.metric_set import MetricSet
from diffexp.evaluation.sample_scores import score_samples
from diffexp.models.build import build_model
from diffexp.system import distributed
from tests.helpers.sets import against, digits, gathered
from tests.helpers.small import SMALL

COUNT = 101  # shares of 26, 26, 26 and 23


def scores_of_samples():
    """Samples of an untrained model."""
    experiment = load_experiment("digits", SMALL)
    model, extractor = build_model(experiment), digits_extractor()
    metrics = MetricSet.of(against(digits()), extractor, COUNT)
    sampler = experiment.sample_grid.samplers["ddim-5"]
    sampled = score_samples(model, sampler, metrics, range(50, 50 + COUNT), seed=3, batch_size=20)
    leader = metrics.metrics["fd"]
    with leader.sync_context():
        return sampled.scores, leader.summary()


def classes():
    """The Inception score of known logits, of which the processes have different numbers."""
    source = torch.Generator().manual_seed(0)
    logits, values = torch.randn(10, 4, generator=source), torch.randn(10, 3, generator=source)
    metric = InceptionScore(None, SimpleNamespace(classes=4), 10)
    mine = distributed.share(10)
    if len(mine):
        given = Features(values[mine.start : mine.stop], logits[mine.start : mine.stop])
        metric.update(None, given, mine.start)
    return tuple(metric.compute()[:2])


def in_a_process(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{world}", rank=rank, world_size=world)
    scores, found = scores_of_samples()
    torch.save((scores.as_dict(), found.features, found.gaussian.cov, classes()), f"{folder}/{world}-{rank}.pt")
    try:
        with_one_failing(rank)
    except UserError as error:
        (folder / f"{world}-{rank}.txt").write_text(str(error))
    dist.destroy_process_group()


def with_one_failing(rank):
    class Broken:
        def sample(self, *_):
            return torch.full((5, 1, 8, 8), float("nan") if rank == 1 else 0.0)

        def network_calls(self, _):
            return 1

    metrics = MetricSet.of(against(digits()), digits_extractor(), 100)
    score_samples(Broken(), None, metrics, range(100), 0, 5)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_several_processes_gather_what_one_does(tmp_path, world):
    scores, found = scores_of_samples()
    mp.start_processes(in_a_process, (world, tmp_path), nprocs=world, start_method="fork")
    for rank in range(world):
        theirs, features, cov, inception_score = torch.load(tmp_path / f"{world}-{rank}.pt")
        torch.testing.assert_close(features, found.features, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(cov, found.gaussian.cov, rtol=1e-4, atol=1e-4)
        assert theirs["fd"]["value"] == pytest.approx(scores["fd"].value, rel=1e-5)
        assert theirs["kd"]["value"] == pytest.approx(scores["kd"].value, rel=1e-4)
        assert (theirs["precision"]["value"], theirs["recall"]["value"]) == (
            scores["precision"].value,
            scores["recall"].value,
        )
        assert inception_score == pytest.approx(classes())
        message = (tmp_path / f"{world}-{rank}.txt").read_text()
        assert ("NaN" in message) == (rank == 1)


def test_shares_are_contiguous_and_complete(monkeypatch):
    for count in (1, 5, 100, 101):
        for world in (1, 2, 4, 7):
            monkeypatch.setattr(distributed, "world", lambda world=world: world)
            shares = []
            for rank in range(world):
                monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
                shares += distributed.share(count)
            assert shares == list(range(count))


def test_alone_everything_is_as_it_was():
    tensor = torch.randn(3, 2)
    assert distributed.total(tensor) is tensor
    assert distributed.anywhere(True, tensor.device)
    assert not distributed.anywhere(False, tensor.device)
    assert gathered(digits()[:50]).gaussian.count == 50
