"""Comparisons against scipy's tests, and simulations of their error rate and power."""

import math

import numpy as np
import pytest
from scipy import stats

from diffexp.statistics.comparison import compare, holm
from diffexp.statistics.estimates import Estimates, over_replicates
from diffexp.statistics.influence import Influence
from diffexp.statistics.power import (
    detectable,
    detectable_over_seeds,
    mean_interval,
    replicates_needed,
)
from diffexp.statistics.scores import ScoredBlock, estimate_scores


def by_seed(values):
    return [dict(enumerate(row)) for row in values]


def test_two_settings_are_compared_by_the_paired_t_test():
    one, other = [1.0, 1.4, 0.9, 1.2], [1.3, 1.5, 1.4, 1.6]
    found = compare(over_replicates(by_seed([one, other]))).differences[0, 1]
    expected = stats.ttest_rel(one, other)
    assert found.p == found.adjusted == pytest.approx(expected.pvalue, rel=1e-6)
    interval = expected.confidence_interval(0.95)
    assert found.interval() == pytest.approx((interval.low, interval.high), rel=1e-6)
    assert found.test == "paired by 4 seeds"


def test_without_common_seeds_by_students_t_test():
    one, other = [1.0, 1.4, 0.9], [1.3, 1.5, 1.4, 1.6]
    found = compare(over_replicates([dict(enumerate(one)), dict(enumerate(other, 10))])).differences[0, 1]
    assert found.p == pytest.approx(stats.ttest_ind(one, other).pvalue, rel=1e-6)
    assert "unpaired" in found.test


def test_several_settings_share_the_residual_of_randomised_blocks():
    """The textbook's sums of squares of a two-way layout without interaction."""
    y = np.array([[3.1, 2.9, 3.6], [3.3, 3.4, 3.9], [2.8, 2.2, 3.0], [4.0, 3.9, 4.4]])
    residual = y - y.mean(1, keepdims=True) - y.mean(0) + y.mean()
    variance = (residual**2).sum() / (3 * 2)
    estimates = over_replicates(by_seed(y))
    assert estimates.df == 6
    assert estimates.values == pytest.approx(y.mean(1))
    assert estimates.errors(np.array([[1.0, 0, -1, 0]])) == pytest.approx([np.sqrt(2 * variance / 3)])


def test_a_missing_seed_leaves_the_differences_unbiased():
    """Exact data of setting + seed: the least squares recover it although each setting has other seeds."""
    values = [{0: 1.0, 1: 2.0, 2: 5.0}, {0: 1.5, 2: 5.5}, {1: 4.0, 2: 7.0}]
    estimates = over_replicates(values)
    assert np.diff(estimates.values) == pytest.approx([0.5, 1.5])


def test_single_values_have_no_error():
    assert over_replicates([{0: 1.0}, {0: 2.0}]) is None
    assert over_replicates([]) is None


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])


def test_equal_spreads_give_tukeys_test():
    y = np.random.default_rng(5).normal(size=(5, 4)) + np.array([0, 0, 0, 0.5, 2.0])[:, None]
    found = compare(over_replicates([{(k, n): v for n, v in enumerate(row)} for k, row in enumerate(y)]))
    expected = stats.tukey_hsd(*y).pvalue
    largest = max(found.differences, key=lambda pair: abs(found.differences[pair].value))
    assert found.differences[largest].adjusted == pytest.approx(expected[largest], rel=0.15)
    for pair, difference in found.differences.items():
        assert difference.p <= difference.adjusted <= expected[pair] + 0.02  # a step-down test is not less powerful


def correlated(random, settings, images, shared=0.8):
    """Influences of settings on the same images: a common part, and one of each setting."""
    common = random.normal(size=images)
    return shared * common + random.normal(size=(settings, images)) * np.linspace(0.5, 1.5, settings)[:, None]


@pytest.mark.parametrize("kind", ["images", "seeds"])
def test_equal_rows_of_a_table_are_called_different_as_often_as_the_level_says(kind):
    """The smallest adjusted p of a table is uniform: for dependent cells with other spreads (images), and for seeds."""
    random, smallest = np.random.default_rng(6), []
    for _ in range(200):
        if kind == "images":
            x = correlated(random, 5, 200)
            estimates = Estimates.over_images(x.mean(1), [[Influence.linear(row, 200) for row in x]], 200)
        else:
            estimates = over_replicates(by_seed(random.normal(size=(5, 3)) + random.normal(size=3)))
        smallest.append(min(each.adjusted for each in compare(estimates).differences.values()))
    assert stats.kstest(smallest, "uniform").pvalue > 0.01


def test_more_blocks_see_smaller_differences():
    """As two standard errors of the means would; the rule by the spread of one block became blinder."""
    random, runs, power = np.random.default_rng(7), 100, {}
    for blocks in (3, 30):
        found = 0
        for _ in range(runs):
            values = random.normal(size=(2, blocks)) + np.array([0.0, 2.0])[:, None]
            settings = [[ScoredBlock((0, n, 1), v) for n, v in enumerate(row)] for row in values]
            found += compare(estimate_scores(settings)).differences[0, 1].is_significant
        power[blocks] = found / runs
    assert power[30] > 0.95 > power[3]


def test_scores_of_the_same_images_are_paired_and_others_are_not():
    random = np.random.default_rng(8)
    x = correlated(random, 2, 400, shared=5.0)
    influences = [Influence.linear(row, 400) for row in x]

    def errors(first_images, second_images):
        blocks = [
            [ScoredBlock(images, row.mean(), influence.error, influence)]
            for images, row, influence in zip((first_images, second_images), x, influences, strict=True)
        ]
        estimates = estimate_scores(blocks)
        return estimates.errors(np.array([[1.0, -1.0]]))[0], estimates.test

    paired, test = errors((0, 0, 400), (0, 0, 400))
    assert paired == pytest.approx(stats.sem(x[0] - x[1]), rel=1e-4)
    assert test == "paired over 400 images"
    independent, test = errors((0, 0, 400), (1, 0, 400))
    assert independent == pytest.approx(np.hypot(stats.sem(x[0]), stats.sem(x[1])), rel=1e-4)
    assert "unpaired" in test
    assert paired < independent / 3


def test_the_best_is_marked_with_those_that_do_not_differ_from_it():
    estimates = Estimates.unpaired(np.array([3.0, 1.0, 1.1, 2.0]), np.array([0.1, 0.1, 0.1, 0.1]))
    assert compare(estimates).best_and_ties() == (1, {2})
    assert compare(estimates).best_and_ties(lower_is_better=False) == (0, set())


@pytest.mark.parametrize(("seeds", "smallest"), [(2, 0.51), (3, 0.28), (5, 0.18), (10, 0.12)])
def test_the_smallest_difference_that_seeds_detect_is_that_of_the_noncentral_t(seeds, smallest):
    found = detectable_over_seeds(0.09, seeds, paired=False)
    assert found == pytest.approx(smallest, abs=0.006)
    df, shift = 2 * seeds - 2, found / (0.09 * np.sqrt(2 / seeds))
    critical = stats.t.ppf(0.975, df)
    assert stats.nct.sf(critical, df, shift) == pytest.approx(0.8, abs=2e-3)


@pytest.mark.parametrize("paired", [True, False])
def test_the_power_is_as_promised(paired):
    random, runs, found = np.random.default_rng(9), 200, 0
    smallest = detectable_over_seeds(1.0, 4, settings=3, paired=paired)
    for _ in range(runs):
        y = random.normal(size=(3, 4)) + np.array([0, 0, smallest])[:, None]
        seeds = (
            by_seed(y + random.normal(size=4))
            if paired
            else [{(k, n): v for n, v in enumerate(row)} for k, row in enumerate(y)]
        )
        found += compare(over_replicates(seeds)).differences[0, 2].is_significant
    assert found / runs == pytest.approx(0.8, abs=0.09)  # the step-down test finds a little more


def test_many_images_need_1_96_and_0_84_standard_errors():
    assert detectable(1.0, np.inf) == pytest.approx(stats.norm.ppf(0.975) + stats.norm.ppf(0.8), abs=1e-4)


def test_the_number_of_replicates_for_a_difference():
    assert replicates_needed(0.18, lambda n: detectable_over_seeds(0.09, n, paired=False)) == 6
    assert replicates_needed(0.183, lambda n: detectable_over_seeds(0.09, n, paired=False)) == 5
    assert replicates_needed(0.0, lambda n: 1 / n) is None


def test_the_interval_of_a_mean_is_students():
    values = [1.0, 1.2, 0.7, 1.1]
    mean, half = mean_interval(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert mean_interval([2.0]) == (2.0, None)
    mean, half = mean_interval([math.nan, 1.0])
    assert math.isnan(mean)
    assert half is None


def test_values_that_differ_by_rounding_are_equal():
    row = np.random.default_rng(3).normal(size=5)
    found = compare(over_replicates(by_seed([row, row + 1e-15, row * (1 + 1e-15), row])))
    assert [each.value for each in found.differences.values()] == [0] * 6
    assert not any(each.is_significant for each in found.differences.values())
