"""Confidence intervals of means, and the differences that a plan can detect."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from scipy import special

from diffexp.statistics.comparison import LEVEL

POWER = 0.8  # probability of finding a difference that exists
_MOST = 100_000  # replicates that are considered
_QUANTILES = (np.arange(1000) + 0.5) / 1000  # over which the estimated spread is averaged


def mean_interval(values: Sequence[float], level: float = 1 - LEVEL) -> tuple[float, float | None]:
    """Return the mean and half the width of its Student t interval; None for a single or a non-finite value."""
    mean = float(np.mean(values))
    if len(values) < 2 or not np.isfinite(mean):
        return mean, None
    quantile = float(special.stdtrit(len(values) - 1, (1 + level) / 2))
    return mean, quantile * float(np.std(values, ddof=1)) / len(values) ** 0.5


def detectable(error: float, df: float, settings: int = 2, power: float = POWER, level: float = LEVEL) -> float:
    """Return the smallest true difference that is found significant with the given probability.

    Args:
        error: standard error of a difference.
        df: degrees of freedom of the error.
        settings: number of settings that are compared pairwise; the level holds for the entire family.
        power: probability of finding the difference.
        level: two-sided level.
    """
    return _in_errors(df, settings, power, level) * error


@lru_cache(maxsize=4096)
def _in_errors(df: float, settings: int, power: float, level: float) -> float:
    critical = _critical(df, settings, level)
    upper = critical + 10
    while power_of(upper, df, critical) < power:
        upper *= 2
    lower = 0.0
    while upper - lower > 1e-9 * upper:  # bisection: power grows with the shift
        middle = (lower + upper) / 2
        lower, upper = (middle, upper) if power_of(middle, df, critical) < power else (lower, middle)
    return upper


def _critical(df: float, settings: int, level: float) -> float:
    """Return the quantile of the largest of all pairwise differences of equal settings, in standard errors."""
    if settings == 2:
        return float(special.stdtrit(df, 1 - level / 2))
    from scipy.stats import studentized_range  # this import takes half a second

    # Tukey's range, which is of single values and not of differences
    return float(studentized_range.ppf(1 - level, settings, min(df, 1e5)) / np.sqrt(2))


def power_of(shift: float, df: float, critical: float) -> float:
    """Return the probability that |t| exceeds the critical value, for a true difference of `shift` standard errors."""
    spread = np.sqrt(special.chdtri(df, 1 - _QUANTILES) / df) if np.isfinite(df) else np.ones(1)
    return float(np.mean(special.ndtr(shift - critical * spread) + special.ndtr(-shift - critical * spread)))


def detectable_over_seeds(sd: float, seeds: int, settings: int = 2, *, paired: bool = True) -> float:
    """Return the smallest difference of two of the settings that n seeds each can detect (power 80 %, level 5 %).

    Args:
        sd: standard deviation of a setting's results over seeds, without the effect of the seed if `paired`.
        seeds: n ≥ 2.
        settings: number of settings.
        paired: whether each setting has the same seeds.
    """
    df = (settings - 1) * (seeds - 1) if paired else settings * (seeds - 1)
    return detectable(sd * (2 / seeds) ** 0.5, df, settings)


def replicates_needed(difference: float, smallest: Callable[[int], float], start: int = 2) -> int | None:
    """Return the smallest number n ≥ start of replicates at which `smallest(n)` is at most |difference|.

    Args:
        difference: the true difference.
        smallest: the smallest difference that n replicates detect; it decreases with n.
        start: the smallest n.

    Returns:
        n, or None if more than 100,000 are needed.
    """
    low, high = start, start
    while smallest(high) > abs(difference):
        low, high = high, 2 * high
        if high > _MOST:
            return None
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if smallest(middle) > abs(difference) else (low, middle)
    return low
