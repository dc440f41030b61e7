"""The difference of two sweeps over all settings that both have."""

from collections.abc import Hashable, Sequence

import numpy as np
from scipy import special

from diffexp.reports.measures import Measure
from diffexp.statistics.comparison import Difference
from diffexp.statistics.estimates import over_replicates


def over_settings(rows: Sequence[tuple[str, Measure]]) -> tuple[Measure, Difference | None]:
    """Return the mean over the settings as a measure, and the second sweep minus the first.

    With several common seeds, the difference is the mean over these settings of the mean paired difference of each. Its
    error is pooled over the settings, so that it may differ from setting to setting. With one seed each, the
    differences of the settings are the replicates.

    Args:
        rows: the name of each setting, and its measure of the two sweeps.
    """
    first = rows[0][1]
    if len(rows) == 1:
        return first, None
    sides: list[dict[Hashable, float]] = [
        {(name, seed): value for name, each in rows for seed, value in each.values[side].items()} for side in (0, 1)
    ]
    label = f"the mean of {first.label} over {len(rows)} settings"
    measure = Measure(first.name, label, first.lower_is_better, (), tuple(sides), "trainings")
    paired = [
        {(name, seed): each.values[1][seed] - value for seed, value in each.values[0].items() if seed in each.values[1]}
        for name, each in rows
    ]
    estimates = over_replicates(paired) if all(paired) else None
    if estimates is None:
        return measure, None
    weights = np.full((1, len(rows)), 1 / len(rows))
    value, error = float(np.mean(estimates.values)), float(estimates.errors(weights)[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * float(special.stdtr(estimates.df, -np.abs(value) / np.float64(error))) if value else 1.0
    test = f"paired by seed in each of {len(rows)} settings"
    return measure, Difference(value, error, estimates.df, p, p, test)
