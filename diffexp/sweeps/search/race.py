"""Racing: further seeds train only the settings that may still be the best (Maron & Moore 1994; Birattari et al. 2002).

All settings start with two seeds. Then a look compares those still racing, from all values so far, and the ones that
are significantly worse than the best leave. Each of the others gets the next seed, until one is left.

Every look is another chance to reject one of several equal settings. So look l tests at the level .0128/√l instead of
5 %. Over the 30 looks of a race of equal settings, 5 % of races then reject any of them, for 2 as for 30 settings
(`benchmarks/race.py` simulates it). Levels for many looks come from group sequential trials (Pocock 1977), which take
the same one at each look. The root spends more on the early looks, with which most races end. As the level depends
neither on the largest number of trials nor on earlier looks, a race may be extended.
"""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from scipy import special

from diffexp.statistics.comparison import compare
from diffexp.statistics.estimates import Estimates, over_replicates
from diffexp.statistics.influence import Array

FIRST_SEEDS = 2  # of each setting before the first look
LOOKS = 30  # at most; a race that is undecided then ends
_FIRST_LEVEL = 0.0128  # of the first look
_EQUAL = 1e-9  # relative difference of values without spread that rounding explains


def look_level(look: int) -> float:
    """Return the level of a look, over all pairs of the settings that are still racing.

    Args:
        look: the number of the look, from 1.
    """
    return _FIRST_LEVEL / float(look**0.5)


def rejected(
    values: Sequence[Mapping[Hashable, float]], racing: Sequence[int], look: int
) -> tuple[int, dict[int, float]]:
    """Return the best of the settings that are still racing, and those that are significantly worse than it.

    Args:
        values: for each setting, also those that have left, its values by seed; lower is better.
        racing: the settings that are still racing, at least two.
        look: the number of the look, from 1.

    Returns:
        The best setting, and the p-value of each rejected one, corrected for all pairs of those racing.
    """
    every = over_replicates(values)
    assert every is not None
    part = np.array(racing)
    chosen = np.ix_(part, part)
    estimates = Estimates(every.values[part], every.first[chosen], every.cross[chosen], every.df, every.test)
    best = int(np.argmin(estimates.values))
    level = look_level(look)
    if _smallest_p(estimates, best) >= level:  # no correction makes it smaller
        return racing[best], {}
    found = compare(estimates).differences
    equal = _EQUAL * np.abs(estimates.values).max()
    worse = {}
    for other in range(len(racing)):
        if estimates.values[other] - estimates.values[best] > equal:
            p = found[min(best, other), max(best, other)].adjusted
            if p < level:
                worse[racing[other]] = p
    return racing[best], worse


def _smallest_p(estimates: Estimates, best: int) -> float:
    """Return the smallest p-value of a difference from the best, without correction."""
    contrasts: Array = np.eye(len(estimates.values))
    contrasts[:, best] -= 1
    contrasts = np.delete(contrasts, best, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = (contrasts @ estimates.values) / estimates.errors(contrasts)
    largest = float(np.nanmax(statistic, initial=0.0))  # 0/0 is no difference
    return float(2 * special.stdtr(estimates.df, -largest))
