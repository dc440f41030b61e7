"""Racing: further seeds train only the settings that may still be the best (Maron & Moore 1994; Birattari et al. 2002).

All settings start with two seeds. Then a look compares those still racing, from all their values so far, and the ones
that are significantly worse than the best leave. Each of the others gets the next seed, until one is left.

Every look is another chance to reject one of several equal settings. So look l tests at the level .0113/√l instead of
5 %. Over the 30 looks of a race of equal settings, 4.5 % of races of 2 to 12 settings then reject any of them, and 5 %
of races of 30 (`benchmarks/race.py` simulates it). Levels for many looks come from group sequential trials (Pocock
1977), which take the same one at each look. The root spends more on the early looks, with which most races end. As the
level depends neither on the largest number of trials nor on earlier looks, a race may be extended.
"""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from scipy import special

from diffexp.statistics.comparison import compare
from diffexp.statistics.estimates import Estimates, over_replicates
from diffexp.statistics.influence import Array

FIRST_SEEDS = 2  # of each setting before the first look
LOOKS = 30  # at most; a race that is undecided then ends
_FIRST_LEVEL = 0.0113  # of the first look
_EQUAL = 1e-9  # relative difference of values without spread that rounding explains


def look_level(look: int) -> float:
    """Return the level of a look, over all pairs of the settings that are still racing.

    Args:
        look: the number of the look, from 1.
    """
    return _FIRST_LEVEL / float(look**0.5)


def rejected(values: Sequence[Mapping[Hashable, float]], look: int) -> tuple[int, dict[int, float]]:
    """Return the best of the settings that are still racing, and those that are significantly worse than it.

    Settings that have left do not count for the spread, because that of poor settings is often another one.

    Args:
        values: for each setting, at least two, its values by seed; lower is better.
        look: the number of the look, from 1.

    Returns:
        The number of the best setting, and by number the p-values of those rejected, corrected for all pairs.
    """
    estimates = over_replicates(values)
    assert estimates is not None
    best, level = int(np.argmin(estimates.values)), look_level(look)
    if _smallest_p(estimates, best) >= level:  # no correction makes it smaller
        return best, {}
    found, equal = compare(estimates).differences, _EQUAL * np.abs(estimates.values).max()
    worse = {}
    for other in range(len(values)):
        if estimates.values[other] - estimates.values[best] > equal:
            p = found[min(best, other), max(best, other)].adjusted
            if p < level:
                worse[other] = p
    return best, worse


def _smallest_p(estimates: Estimates, best: int) -> float:
    """Return the smallest p-value of a difference from the best, without correction."""
    contrasts: Array = np.eye(len(estimates.values))
    contrasts[:, best] -= 1
    contrasts = np.delete(contrasts, best, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = (contrasts @ estimates.values) / estimates.errors(contrasts)
    largest = float(np.nanmax(statistic, initial=0.0))  # 0/0 is no difference
    return float(2 * special.stdtr(estimates.df, -largest))
