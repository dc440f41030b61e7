"""Who leaves a race, in simulations whose truth is known."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from diffexp.sweeps.search.race import LOOKS, look_level, rejected

FOLDER = Path(__file__).parents[3] / "benchmarks"

LEVELS = np.array([look_level(look) for look in range(1, LOOKS + 1)])


@pytest.mark.parametrize("settings", [2, *(pytest.param(k, marks=pytest.mark.slow) for k in (5, 30))])
def test_at_most_five_percent_of_races_of_equal_settings_reject_any_of_them(settings):
    """By Student's t of two settings, and by Tukey's distribution of the range, drawn from its definition."""
    random = np.random.default_rng(settings)
    races, seeds = 20_000, np.arange(2, LOOKS + 2)
    total, square = np.zeros((races, settings)), np.zeros(races)
    rejects = np.zeros(races, dtype=bool)
    for number in range(1, LOOKS + 2):
        values = random.standard_normal((races, settings))
        values -= values.mean(axis=1, keepdims=True)
        total, square = total + values, square + (values**2).sum(axis=1)
        if number in seeds:
            df = (settings - 1) * (number - 1)
            variance = (square - (total**2).sum(axis=1) / number) / df
            largest = np.ptp(total / number, axis=1) / np.sqrt(variance / number)
            level = LEVELS[number - 2]
            if settings == 2:
                critical = stats.t.isf(level / 2, df) * 2**0.5
            else:
                ranges = np.ptp(random.standard_normal((100_000, settings)), axis=1)
                critical = np.quantile(ranges / np.sqrt(random.chisquare(df, 100_000) / df), 1 - level)
            rejects |= largest > critical
    assert 0.04 < rejects.mean() < 0.054  # the standard error is .0015


def test_two_settings_are_compared_by_the_paired_t_test():
    one, other = [0.3, -0.2, 0.5, 0.1], [2.1, 1.6, 2.5, 2.0]
    p = stats.ttest_rel(one, other).pvalue
    values = [dict(enumerate(each)) for each in (other, one)]
    assert rejected(values, look=3) == (1, {0: pytest.approx(p)})
    assert p > 1e-5
    noisy = [dict(enumerate(each)) for each in (one, [0.4, -0.2, 0.4, 0.2])]
    assert rejected(noisy, look=3) == (0, {})


def test_values_without_any_spread():
    same = {0: 1.0, 1: 1.0}
    assert rejected([same, same], look=1)[1] == {}
    best, worse = rejected([{0: 2.0, 1: 2.0}, same, same], look=1)
    assert best in (1, 2)
    assert set(worse) == {0}


@pytest.fixture
def simulation(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delitem(sys.modules, "race", raising=False)
    return importlib.import_module("race")


@pytest.mark.slow
def test_a_race_rejects_at_most_five_percent_of_equal_settings_with_the_code_that_decides(simulation):
    random = np.random.default_rng(0)
    found = [simulation.race([0, 0, 0], 30, random) for _ in range(1000)]
    # standard error .7 %; a race of 9 looks spends some 4 % of its 5 %
    assert 0.01 < np.mean([bool(each.rejected) for each in found]) < 0.06


def test_a_race_takes_fewer_trials_than_a_grid_that_finds_the_best_as_often(simulation):
    random = np.random.default_rng(0)
    means = [0, 4, 4, 4]
    found = [simulation.race(means, 48, random) for _ in range(60)]
    assert all(each.found == 0 for each in found)
    # in 60 of 60, so with a probability of at least .95 at a level of 5 %
    used = np.mean([each.trials for each in found])
    assert used < 16
    assert np.mean([each.is_decided for each in found]) > 0.9


def test_the_grid_of_the_simulation_has_the_power_of_theory(simulation):
    # two settings: the paired t test with the noncentrality d √(n/2)
    d, probability = 2.0, 0.9
    power = {n: stats.nct.sf(stats.t.isf(0.025, n - 1), n - 1, d * (n / 2) ** 0.5) for n in range(2, 20)}
    needed = min(n for n, each in power.items() if each >= probability)
    assert power[needed - 1] < probability - 0.02
    assert power[needed] > probability + 0.02
    assert simulation.grid_seeds([0, d], probability, np.random.default_rng(0)) == needed
