"""Distances against closed forms and simulation."""

import math
from types import SimpleNamespace

import pytest
import torch

from diffexp.evaluation.feature_statistics import FeatureStatistics, FeatureSummary, Gaussian
from diffexp.evaluation.metrics.frechet import FrechetReference
from diffexp.evaluation.metrics.kernel import KernelReference
from diffexp.evaluation.metrics.nearest import MemorizedFraction, NearestDistanceRatio
from diffexp.evaluation.metrics.precision_recall import Precision, Recall
from diffexp.evaluation.nearest_neighbors import typical_distances
from diffexp.evaluation.reference import Reference


def values(metrics, real, sample):
    """What metrics say of features, compared with those of real images."""
    reference = Reference(of_samples(real), real, typical_distances(real), {}, "test")
    summary = FeatureSummary(of_samples(sample), sample)
    extractor = SimpleNamespace(dim=real.shape[1], classes=None)
    return tuple(metric(reference, extractor).measure(summary).value for metric in metrics)


def gaussian(mean, cov, count=None):
    return Gaussian(torch.as_tensor(mean, dtype=torch.float64), torch.as_tensor(cov, dtype=torch.float64), count)


def of_samples(samples):
    return Gaussian(samples.mean(0).double(), samples.double().T.cov(), len(samples))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_diagonal_gaussians_in_closed_form():
    """Commuting covariances: |μ₁ - μ₂|² + Σ (σ₁ - σ₂)²."""
    one, other = gaussian([1.0, 2, 3], torch.diag(torch.tensor([1.0, 4, 9]))), gaussian([0.0, 2, 5], torch.eye(3))
    assert FrechetReference(one).distance(other) == pytest.approx(1 + 0 + 4 + 0 + 1 + 4, rel=1e-12)


def test_gaussians_that_do_not_commute_in_closed_form():
    """In two dimensions tr (Σ₁Σ₂)^½ = √(tr Σ₁Σ₂ + 2 √det Σ₁Σ₂)."""
    s1 = torch.tensor([[2.0, 0.7], [0.7, 1.0]], dtype=torch.float64)
    s2 = torch.tensor([[1.0, -0.4], [-0.4, 3.0]], dtype=torch.float64)
    product = s1 @ s2
    root = math.sqrt(product.trace() + 2 * math.sqrt(torch.linalg.det(product)))
    expected = 0.25 + float(s1.trace() + s2.trace()) - 2 * root
    assert FrechetReference(gaussian([0.5, 0], s1)).distance(gaussian([0, 0], s2)) == pytest.approx(expected, rel=1e-12)


def test_equal_sets_have_distance_0_also_with_fewer_samples_than_features():
    for count in (500, 20):
        set_ = of_samples(normal(count, 64))
        assert 0 <= FrechetReference(set_).distance(set_) < 1e-9


def test_singular_covariances_give_the_nuclear_norm():
    """For n < d the trace is the sum of the singular values of X₁ᶜ X₂ᶜᵀ/√((n-1)(m-1)), without any root."""
    x, y = normal(30, 100), 1 + 2 * normal(40, 100, seed=1)
    xc, yc = (x - x.mean(0)) / math.sqrt(29), (y - y.mean(0)) / math.sqrt(39)
    trace = torch.linalg.svdvals(xc @ yc.T).sum()
    expected = (x.mean(0) - y.mean(0)).square().sum() + xc.square().sum() + yc.square().sum() - 2 * trace
    assert FrechetReference(of_samples(y)).distance(of_samples(x)) == pytest.approx(expected.item(), rel=1e-9)


def test_the_floor_is_the_distance_of_two_samples_of_one_gaussian():
    scales = torch.linspace(0.2, 2, 12, dtype=torch.float64)
    n, m = 400, 1000
    values = []
    for seed in range(150):
        real = FrechetReference(of_samples(scales * normal(m, 12, seed=seed)))
        values.append(real.distance(of_samples(scales * normal(n, 12, seed=1000 + seed))))
    floor = FrechetReference(gaussian(torch.zeros(12), scales.square().diag(), m)).expected(n)
    values = torch.tensor(values)
    assert values.mean().item() == pytest.approx(floor.value, rel=0.06)
    assert values.std().item() == pytest.approx(floor.error, rel=0.25)


def test_the_bias_falls_as_1_over_n():
    reference = FrechetReference(gaussian(torch.zeros(8), torch.eye(8)))
    bias = {
        n: sum(reference.distance(of_samples(normal(n, 8, seed=seed))) for seed in range(60)) / 60 for n in (100, 400)
    }
    assert bias[100] / bias[400] == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_standard_error_is_the_spread_over_samples(shift):
    """Far from the floor (shift .5) and at it (0)."""
    reference = FrechetReference(gaussian(torch.zeros(6), torch.eye(6)))
    samples = [shift + normal(500, 6, seed=seed) for seed in range(120)]
    values = torch.tensor([reference.distance(of_samples(each)) for each in samples])
    errors = torch.tensor([reference.influence(of_samples(each), each).error for each in samples])
    assert errors.mean().item() == pytest.approx(values.std().item(), rel=0.2 if shift else 0.4)


def test_kernel_distance_by_its_definition():
    x, y = normal(60, 5), 0.5 + normal(80, 5, seed=1)

    def k(a, b):
        return (a @ b / 5 + 1) ** 3

    within_x = sum(k(x[i], x[j]) for i in range(60) for j in range(60) if i != j) / (60 * 59)
    within_y = sum(k(y[i], y[j]) for i in range(80) for j in range(80) if i != j) / (80 * 79)
    between = sum(k(a, b) for a in x for b in y) / (60 * 80)
    assert KernelReference(y).distance(x).value == pytest.approx((within_x + within_y - 2 * between).item(), rel=1e-10)


@pytest.mark.parametrize("shift", [0.5, 0.0])
def test_kernel_distance_is_unbiased_and_its_error_is_the_spread(shift):
    """At a shift of 0 the mean is 0: over both sets."""
    reference = KernelReference(normal(2000, 6, seed=12345))
    found = [reference.distance(shift + normal(150, 6, seed=999 + seed)) for seed in range(80)]
    values = torch.tensor([each.value for each in found])
    spread = values.std().item()
    if shift == 0:
        fresh = [
            KernelReference(normal(200, 6, seed=seed)).distance(normal(150, 6, seed=999 + seed)) for seed in range(80)
        ]
        fresh_values = torch.tensor([each.value for each in fresh])
        assert abs(fresh_values.mean().item()) < 3 * fresh_values.std().item() / math.sqrt(80)
    assert torch.tensor([each.error for each in found]).mean().item() == pytest.approx(spread, rel=0.25)


def test_nearest_distances_tell_copies():
    real = normal(400, 4).float()
    fresh, copies = normal(300, 4, seed=1).float(), real[:300]
    metrics = (NearestDistanceRatio, MemorizedFraction)
    assert values(metrics, real, copies) == (0, 1)
    ratio, share = values(metrics, real, fresh)
    assert ratio == pytest.approx(1, abs=0.1)
    assert share < 0.03
    ratio, share = values(metrics, real, torch.cat([fresh[:200], copies[:100]]))
    assert share == pytest.approx(1 / 3, abs=0.03)  # a third of copies, which the mean distance hardly shows
    assert ratio > 0.5
    brute_force = min((each - real[0]).norm().item() for each in real[1:])
    assert typical_distances(real)[0].item() == pytest.approx(brute_force, rel=1e-5)


@pytest.mark.parametrize("rounding", [0, 1e-6])
def test_copies_in_the_training_set_do_not_change_what_is_near(rounding):
    once = 10 + normal(400, 4).float()
    twice = torch.cat([once, once + rounding * normal(400, 4, seed=2).float()])
    fresh = 10 + normal(300, 4, seed=1).float()
    for images in (fresh, once[:300]):
        expected = values((NearestDistanceRatio, MemorizedFraction), once, images)
        assert values((NearestDistanceRatio, MemorizedFraction), twice, images) == pytest.approx(expected, abs=1e-5)
    assert typical_distances(once[:1].repeat(50, 1)) is None


def test_recall_falls_for_copies_of_few_and_precision_for_outliers():
    real = normal(500, 4).float()
    few = real[:20].repeat(25, 1) + 1e-3 * normal(500, 4, seed=2).float()
    precision, recall = values((Precision, Recall), real, few)
    assert precision > 0.99
    assert recall < 0.2
    assert values((Precision, Recall), real, real + 100) == (0, 0)


@pytest.mark.parametrize("batch", [7, 64, 1000])
def test_sums_equal_the_moments_of_all_features(batch):
    features = 100 + normal(1000, 9).float()
    statistics = FeatureStatistics(9, 1000)
    for first in range(0, 1000, batch):
        statistics.update(features[first : first + batch], first)
    found = statistics.compute()
    torch.testing.assert_close(found.gaussian.mean, features.double().mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.gaussian.cov, features.double().T.cov(), rtol=1e-7, atol=1e-9)
    assert torch.equal(found.features, features)


def test_memory_does_not_grow_with_the_number_of_images(monkeypatch):
    monkeypatch.setattr("diffexp.evaluation.feature_statistics.FEATURE_BYTES", 100 * 4 * 9)
    features = normal(1050, 9).float()
    statistics = FeatureStatistics(9, 1050)
    for first in range(0, 1050, 50):
        statistics.update(features[first : first + 50], first)
    kept = statistics.compute().features
    assert len(kept) == 100
    positions = (features[:, None] == kept).all(-1).nonzero()[:, 0]  # spread evenly over the set
    assert positions.diff().min() >= 10
    assert positions.diff().max() <= 11
