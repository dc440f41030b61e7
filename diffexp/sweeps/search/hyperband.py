"""W&B's early termination, a one-sided Hyperband (Li et al. 2018): at each band the worse runs end.

A band is a number of values in the history of the metric. Of all runs that have so many, the values there are sorted,
and the one at position ⌊n/eta⌋ is the threshold; a run whose value is above that of the last band it has
reached is stopped. Its value is the best it has had so far, or, if strict, that at the band. Values that are
not finite do not count. (W&B's engine `sweeps` 0.3 decides alike; its releases before count one value more.)
"""

import math
from collections.abc import Sequence

from diffexp.sweeps.spec.file import Hyperband


def should_stop(history: Sequence[float], others: Sequence[Sequence[float]], rule: Hyperband) -> bool:
    """Whether a running trial should end now.

    Args:
        history: its metric so far, where lower is better.
        others: those of all other trials, ended ones included.
        rule: the bands.
    """
    finite = [[value for value in each if math.isfinite(value)] for each in [history, *others]]
    mine = finite[0]
    reached = [band for band in rule.bands if band <= len(mine)]
    if not reached:
        return False
    band = reached[-1]
    values = sorted(each[band - 1] for each in finite if len(each) >= band)
    value = mine[band - 1] if rule.strict else min(mine)
    return value > values[int(len(values) / rule.eta)]
