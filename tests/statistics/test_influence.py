"""Influences against closed forms, and simulations of the errors that they give."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from diffexp.evaluation.feature_statistics import FeatureSummary, Gaussian
from diffexp.evaluation.metrics.frechet import FrechetReference
from diffexp.evaluation.metrics.kernel import KernelReference
from diffexp.evaluation.metrics.precision_recall import Precision, Recall
from diffexp.evaluation.reference import Reference
from diffexp.statistics.estimates import Estimates
from diffexp.statistics.influence import Influence, covariances

DIM = 8
SCALES = torch.arange(1, DIM + 1, dtype=torch.float64) ** -0.5
A_MINUS_B = np.array([[1.0, -1.0]])


def gaussian(x):
    return Gaussian(x.mean(0), x.T.cov(), len(x))


@pytest.fixture(scope="module")
def reference():
    real = torch.randn(800, DIM, generator=torch.Generator().manual_seed(7)).double() * SCALES
    exact = Gaussian(torch.zeros(DIM, dtype=torch.float64), SCALES.square().diag(), len(real))
    return Reference(exact, real.float(), None, {}, "test")


@pytest.fixture(scope="module")
def measures(reference):
    """By name, a function from features to (value, influence)."""
    frechet, kernel = FrechetReference(reference.gaussian), KernelReference(reference.features)
    precision, recall = (kind(reference, SimpleNamespace(dim=DIM)) for kind in (Precision, Recall))

    def of_metric(metric):
        def measure(x):
            found = metric.measure(FeatureSummary(gaussian(x), x.float()))
            return found.value, found.influence

        return measure

    def of_kernel(x):
        found = kernel.distance(x.float())
        return found.value, found.influence

    return {
        "fd": lambda x: (frechet.distance(gaussian(x)), frechet.influence(gaussian(x), x)),
        "kd": of_kernel,
        "precision": of_metric(precision),
        "recall": of_metric(recall),
    }


def test_the_error_of_a_mean_and_of_a_difference_are_those_of_student():
    random = np.random.default_rng(0)
    x = random.normal(size=300)
    y = x + 0.1 * random.normal(size=300)
    one, other = Influence.linear(x, 300), Influence.linear(y, 300)
    assert one.error == pytest.approx(stats.sem(x), rel=1e-6)
    estimates = Estimates.over_images(np.array([x.mean(), y.mean()]), [[one, other]], 300)
    expected = stats.ttest_rel(x, y)
    assert (x.mean() - y.mean()) / estimates.errors(A_MINUS_B)[0] == pytest.approx(expected.statistic, rel=1e-4)
    assert estimates.df == expected.df


def test_the_influence_on_a_square_of_a_mean_in_closed_form():
    """S = x̄² has ψ_i = 2 x̄ (x_i - x̄). At E x = 0, Var S = 2 σ⁴/n², which ψ alone gives twice."""
    random, n, found = np.random.default_rng(1), 300, []
    for _ in range(600):
        x = random.normal(size=n)
        by_fold = np.stack([2 * x[fold::3].mean() * (x - x.mean()) for fold in range(3)], axis=1)
        first, cross = covariances([Influence.of_folds(2 * x.mean() * (x - x.mean()), by_fold, n)])
        found.append((first[0, 0], cross[0, 0]))
    first, cross = np.mean(found, axis=0) / (2 / n**2)
    assert first == pytest.approx(2, rel=0.15)
    assert cross == pytest.approx(0, abs=0.5)


def test_the_influence_of_an_image_is_what_its_weight_changes(reference, measures):
    """To first order, an image with the weight 1 + h changes the distance by h ψ / n."""
    x = 0.3 + 1.1 * torch.randn(300, DIM, generator=torch.Generator().manual_seed(2)).double() * SCALES
    frechet, h = FrechetReference(reference.gaussian), 1e-4

    def distance(weights):
        share = weights / weights.sum()
        mean = share @ x
        cov = (x - mean).T @ ((x - mean) * share[:, None])
        return frechet.distance(Gaussian(mean, cov, len(x)))

    influence = frechet.influence(Gaussian(x.mean(0), x.T.cov(correction=0), len(x)), x)
    for image in (0, 17, 200):
        weights = torch.ones(len(x), dtype=torch.float64)
        weights[image] += h
        moved = (distance(weights) - distance(torch.ones_like(weights))) / h * len(x)
        assert influence.values[image, 0] == pytest.approx(moved, rel=1e-2, abs=1e-3)


def test_the_influence_on_the_kernel_distance_is_that_of_leaving_an_image_out(measures):
    x = 0.3 + torch.randn(120, DIM, generator=torch.Generator().manual_seed(3)).double() * SCALES
    value, influence = measures["kd"](x)
    for image in (0, 50):
        without, _ = measures["kd"](torch.cat([x[:image], x[image + 1 :]]))
        assert influence.values[image, 0] == pytest.approx((len(x) - 1) * (value - without), rel=0.03, abs=1e-3)


@pytest.mark.parametrize("where", ["equal to the reference", "apart"])
@pytest.mark.parametrize("metric", ["fd", "kd", "precision", "recall"])
def test_intervals_of_differences_contain_the_truth(measures, metric, where):
    """In 95 % of simulations; at the reference intervals may be wider than needed."""
    generator, n, runs = torch.Generator().manual_seed(4), 240, 120 if metric == "recall" else 250
    shift, width = (0.0, 1.0) if where == "equal to the reference" else (0.15, 1.2)
    found = []
    for _ in range(runs):
        z, other = (torch.randn(n, DIM, generator=generator).double() for _ in range(2))
        one = shift + width * SCALES * z
        two = SCALES * (0.8 * z + 0.6 * other)
        (a, influence_a), (b, influence_b) = measures[metric](one), measures[metric](two)
        estimates = Estimates.over_images(np.array([a, b]), [[influence_a, influence_b]], n)
        found.append((a - b, estimates.errors(A_MINUS_B)[0]))
    difference, error = np.array(found).T
    critical = stats.t.ppf(0.975, estimates.df)
    coverage = (np.abs(difference - difference.mean()) < critical * error).mean()
    margin = 3 * math.sqrt(0.05 * 0.95 / runs)
    assert coverage > 0.95 - margin
    if where == "apart":
        assert coverage < 0.95 + margin
