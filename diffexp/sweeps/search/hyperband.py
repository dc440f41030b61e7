"""W&B's early termination, a one-sided Hyperband (Li et al. 2018): at each band the worse runs end.

A band is a number of values in the history of the metric. The threshold of a band is the value at position ⌊n/eta⌋
among the sorted values that the n runs with such a history have at the band. A run stops if its value exceeds the
threshold of the last band it has reached. Its value is its best so far or, if strict, the one at the band. Values
that are not finite do not count. (W&B's engine `sweeps` 0.3 decides alike; earlier releases count one value more.)
"""

import math
from collections.abc import Sequence

from diffexp.sweeps.spec.file import Hyperband


def should_stop(history: Sequence[float], others: Sequence[Sequence[float]], rule: Hyperband) -> bool:
    """Whether a running trial should end now.

    Args:
        history: the trial's metric so far; lower is better.
        others: the histories of all other trials, including ended ones.
        rule: the bands, eta and strict.
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
