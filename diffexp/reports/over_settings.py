"""The difference of two sweeps over all settings that both have."""

from collections.abc import Hashable, Sequence
from statistics import fmean, stdev

from scipy import special

from diffexp.reports.measures import Measure
from diffexp.statistics.comparison import Difference


def over_settings(rows: Sequence[tuple[str, Measure]]) -> tuple[Measure, Difference | None]:
    """Return the mean over the settings as a measure, and the second sweep minus the first.

    With several seeds that all settings have in both sweeps, each of these seeds gives one difference, the mean over
    the settings: a seed may move all settings of a sweep alike. With one seed, the settings are the replicates.

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
        {seed: each.values[1][seed] - value for seed, value in each.values[0].items() if seed in each.values[1]}
        for _, each in rows
    ]
    if not all(paired):
        return measure, None
    common = sorted(set.intersection(*map(set, paired)), key=str)
    if len(common) > 1:
        return measure, _of_sample(
            [fmean(each[seed] for each in paired) for seed in common],
            f"paired by {len(common)} seeds, as means over {len(rows)} settings",
        )
    return measure, _of_sample([fmean(each.values()) for each in paired], f"over {len(rows)} settings as replicates")


def _of_sample(values: Sequence[float], test: str) -> Difference:
    """Return the mean of independent differences, with Student's t."""
    value, df = fmean(values), len(values) - 1
    error = stdev(values) / len(values) ** 0.5
    p = 1.0 if not value else 0.0 if not error else 2 * float(special.stdtr(df, -abs(value) / error))
    return Difference(value, error, df, p, p, test)
