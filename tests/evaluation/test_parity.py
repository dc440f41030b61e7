"""The same images and weights through torch-fidelity and torchmetrics."""

from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset
from torch_fidelity import calculate_metrics, register_feature_extractor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from diffexp.data.images import MemoryImages
from diffexp.evaluation.extractors.base import Features
from diffexp.evaluation.extractors.digits_v1 import load as digits_extractor
from diffexp.evaluation.extractors.inception import Inception
from diffexp.evaluation.metrics.inception_score import SPLITS, InceptionScore
from diffexp.evaluation.reference import gather, of_images
from tests.helpers.inception import write_random_inception
from tests.helpers.sets import against, digits, noisy, scores_of

QUIET = {"verbose": False, "cuda": False, "cache": False}


class Images(Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


class FidelityDigits(FeatureExtractorBase):
    """The shipped extractor as torch-fidelity takes one; in float64, because its kernel rounds what it is given."""

    def __init__(self, name, features_list, **_):
        super().__init__(name, features_list)
        self.extractor = digits_extractor()

    def forward(self, images):
        return (self.extractor(images).values.double(),)

    @staticmethod
    def get_provided_features_list():
        return ("hidden",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "hidden"


class MetricsDigits(nn.Module):
    """The shipped extractor as torchmetrics takes one."""

    num_features = 32

    def forward(self, images):
        return digits_extractor()(images).values.double()


@pytest.fixture(scope="module")
def two_sets():
    return noisy(digits()[:600], 40), digits()[600:1200]


@pytest.fixture(scope="module")
def fidelity(two_sets):
    with suppress(ValueError):  # registered: xdist may run this module in two parts
        register_feature_extractor("digits", FidelityDigits)
    first, second = two_sets
    return calculate_metrics(
        input1=Images(first),
        input2=Images(second),
        feature_extractor="digits",
        fid=True,
        kid=True,
        prc=True,
        kid_subsets=1,
        kid_subset_size=600,  # one subset of everything: all pairs
        **QUIET,
    )


@pytest.fixture(scope="module")
def ours(two_sets):
    first, second = two_sets
    return scores_of(first, against(second))


def test_frechet_distance_equals_torch_fidelity(ours, fidelity):
    assert ours["fd"].value == pytest.approx(fidelity["frechet_inception_distance"], rel=1e-6)


def test_frechet_distance_equals_torchmetrics(ours, two_sets):
    metric = FrechetInceptionDistance(feature=MetricsDigits(), antialias=False)
    metric.update(two_sets[0], real=False)
    metric.update(two_sets[1], real=True)
    assert ours["fd"].value == pytest.approx(metric.compute().item(), rel=1e-6)


def test_kernel_distance_equals_torch_fidelity(ours, fidelity):
    assert ours["kd"].value == pytest.approx(fidelity["kernel_inception_distance_mean"], rel=1e-6)


def test_kernel_distance_equals_torchmetrics(ours, two_sets):
    metric = KernelInceptionDistance(feature=MetricsDigits(), subsets=1, subset_size=600)
    metric.update(two_sets[0], real=False)
    metric.update(two_sets[1], real=True)
    assert ours["kd"].value == pytest.approx(metric.compute()[0].item(), rel=1e-6)


def test_precision_and_recall_equal_torch_fidelity(ours, fidelity):
    assert ours["precision"].value == pytest.approx(fidelity["precision"])
    assert ours["recall"].value == pytest.approx(fidelity["recall"])


def test_inception_score_equals_torch_fidelity_in_each_split():
    logits = 3 * torch.randn(95, 12, generator=torch.Generator().manual_seed(0))
    metric = InceptionScore(None, SimpleNamespace(classes=12), 95)
    for first in range(0, 95, 20):
        some = logits[first : first + 20]
        metric.update(None, Features(torch.randn(len(some), 4), some), first)
    mean, spread, *_ = metric.compute()
    splits = [isc_features_to_metric(logits[k::SPLITS], 1, shuffle=False) for k in range(SPLITS)]
    expected = torch.tensor([each["inception_score_mean"] for each in splits], dtype=torch.float64)
    assert mean == pytest.approx(expected.mean().item(), rel=1e-9)
    assert spread == pytest.approx(expected.std(correction=0).item(), rel=1e-9)


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    return write_random_inception(tmp_path_factory.mktemp("weights") / "random.pth")


@pytest.mark.slow
def test_with_inception_all_scores_equal_the_libraries(inception_file):
    """Fewer images than features, so that the covariances are singular."""
    source = torch.Generator().manual_seed(1)
    real = torch.randint(0, 256, (10, 3, 32, 32), generator=source, dtype=torch.uint8)
    fake = noisy(real.flip(-1).roll(5, dims=0) // 2, 20)
    extractor = Inception(inception_file)
    reference = of_images(MemoryImages(real), extractor, 10, "real")
    found = gather(MemoryImages(fake), torch.arange(10), extractor, 10, "fake")
    ours = scores_of(fake, reference, extractor, batch_size=10)
    fidelity = calculate_metrics(
        input1=Images(fake),
        input2=Images(real),
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(inception_file),
        fid=True,
        kid=True,
        prc=True,
        kid_subsets=1,
        kid_subset_size=10,
        batch_size=10,
        **QUIET,
    )
    assert ours["fd"].value == pytest.approx(fidelity["frechet_inception_distance"], rel=1e-6)
    # torch-fidelity's kernel in the float32 of the features rounds by 1e-5; in float64 it agrees
    assert ours["kd"].value == pytest.approx(fidelity["kernel_inception_distance_mean"], rel=1e-4)
    in_double = kid_features_to_metric(
        found.features.double(), reference.features.double(), kid_subsets=1, kid_subset_size=10, verbose=False
    )
    assert ours["kd"].value == pytest.approx(in_double["kernel_inception_distance_mean"], rel=1e-9)
    assert (ours["precision"].value, ours["recall"].value) == pytest.approx((fidelity["precision"], fidelity["recall"]))
    metric = FrechetInceptionDistance(2048, feature_extractor_weights_path=str(inception_file), antialias=False)
    metric.update(fake, real=False)
    metric.update(real, real=True)
    assert ours["fd"].value == pytest.approx(metric.compute().item(), rel=1e-6)
