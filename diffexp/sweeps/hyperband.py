"""W&B's early termination, a one-sided Hyperband (Li et al. 2018): at each band the worse runs end.

A band is an index in the history of the metric. Of all runs that have reached it, the values there are sorted,
and the one at position ⌊n/eta⌋ is the threshold; a run whose value is above that of the last band it has
reached is stopped. Its value is the best it has had so far, or, if strict, that at the band.
"""

from collections.abc import Sequence

from diffexp.sweeps.file import Hyperband


def should_stop(history: Sequence[float], others: Sequence[Sequence[float]], rule: Hyperband) -> bool:
    """Whether a running trial should end now.

    Args:
        history: its metric so far, where lower is better.
        others: those of all other trials, ended ones included.
        rule: the bands.
    """
    reached = [band for band in rule.bands if band < len(history)]
    if not reached:
        return False
    band = reached[-1]
    values = sorted(each[band] for each in [history, *others] if len(each) > band)
    value = history[band] if rule.strict else min(history)
    return value > values[int(len(values) / rule.eta)]
