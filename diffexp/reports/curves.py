"""Curves over the steps of a training, as means over the seeds of a setting."""

from collections.abc import Sequence
from dataclasses import replace

from diffexp.reports.figure import Line
from diffexp.reports.groups import RunGroup
from diffexp.statistics.power import mean_interval

# (value, error or None) by step.
Curve = dict[int, tuple[float, float | None]]

BAND_FROM = 3  # seeds: the interval of two is 13 times as wide as they are apart


def over_seeds(line: Line, curves: Sequence[Curve]) -> list[Line]:
    """Return the lines of a setting: that of its only run, or the mean over its seeds at the steps that all have.

    The mean of three and more seeds has a band, the 95 % interval (Student's t). That of two would hide everything
    else, so the two are drawn instead.

    Args:
        line: the line without its points.
        curves: for each seed, (value, error or None) by step.
    """
    curves = [curve for curve in curves if curve]
    if len(curves) < 2:
        return [_of_one(line, curve) for curve in curves]
    steps = sorted(set.intersection(*map(set, curves)))
    means = [mean_interval([curve[step][0] for curve in curves]) for step in steps]
    mean = replace(line, x=steps, y=[value for value, _ in means])
    if len(curves) >= BAND_FROM:
        return [replace(mean, errors=[half or 0.0 for _, half in means], band=True)] if steps else []
    return [*(replace(_of_one(line, curve), errors=None, thin=True) for curve in curves), *([mean] if steps else [])]


def _of_one(line: Line, curve: Curve) -> Line:
    errors = [error for _, error in curve.values() if error is not None]
    values = [value for value, _ in curve.values()]
    return replace(line, x=list(curve), y=values, errors=errors if len(errors) == len(values) else None)


def curves_of_seeds(groups: Sequence[RunGroup]) -> str:
    """Return a sentence on how the seeds of settings are drawn; "" if each setting has one run."""
    counts = seed_counts(groups)
    if not counts:
        return ""
    band = ["band: 95 % interval (Student's t)"] if counts[-1] >= BAND_FROM else []
    thin = ["thin: the two seeds"] if counts[0] < BAND_FROM else []
    return f" Means over n = {' or '.join(map(str, counts))} seeds; {'; '.join(band + thin)}."


def seed_counts(groups: Sequence[RunGroup]) -> list[int]:
    """Return the numbers of seeds that settings with several seeds have."""
    return sorted({len(group.indices) for group in groups} - {1})
