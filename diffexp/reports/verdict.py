"""One sentence on which of several groups of runs is better, by which measure, and what would decide it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from diffexp.formatting import listed
from diffexp.reports.measures import Measure
from diffexp.statistics.comparison import LEVEL, Comparison, Difference, compare
from diffexp.statistics.power import detectable, replicates_needed

# arXiv 2606.20536
ONE_SEED = (
    "With one seed each, this holds for these trainings and not for their settings: the seed of a training moves FID "
    "about three times as much as drawing other images does (FID Lottery, arXiv 2606.20536). Train more seeds: diffexp "
    "train CONFIG --seeds 5."
)


@dataclass(frozen=True)
class Verdict:
    """The verdict on the second of two groups, or on the best of several.

    Attributes:
        outcome: "unknown" if no error is known.
        sentence: the verdict for readers.
        difference: the second group minus the first; None for several groups, or without errors.
    """

    outcome: Literal["better", "worse", "indistinguishable", "unknown"]
    sentence: str
    difference: Difference | None = None


def difference_of(measure: Measure) -> Difference | None:
    """Return the second group minus the first one; None if the errors are unknown."""
    estimates = measure.estimates()
    if estimates is None:
        return None
    found = compare(estimates).differences[0, 1]
    return replace(found, value=0.0 - found.value)


def verdict_on_pair(
    measure: Measure,
    names: tuple[str, str],
    *,
    difference: Difference | None = None,
    note: str | None = None,
    power: bool = True,
) -> Verdict:
    """Return the verdict on the second of two groups.

    Args:
        measure: the measure.
        names: the names of the groups.
        difference: the second group minus the first; None for that of the measure.
        note: a sentence to add; None for what a test over images does not show.
        power: whether to say how many seeds or images would decide it.
    """
    one, two = names
    found = difference or difference_of(measure)
    if found is None:
        return Verdict("unknown", _unknown(measure, f"{one} and {two}"))
    if note is None and not measure.is_over_seeds and measure.replicates == "seeds":
        note = ONE_SEED
    note = f" {note}" if note else ""
    low, high = found.interval()
    if not found.is_significant:
        text = (
            f"{one} and {two} are not distinguishable by {measure.label}: difference {number(found.value)} "
            f"({number(low)} to {number(high)}; {found.test}).{_needed(measure, found) if power else ''}{note}"
        )
        return Verdict("indistinguishable", text, found)
    better = (found.value < 0) == measure.lower_is_better
    direction = "lower" if found.value < 0 else "higher"
    low, high = sorted((abs(low), abs(high)))  # the interval does not contain 0
    text = (
        f"{two} is {'better' if better else 'worse'}: {measure.label} is {direction} by {number(abs(found.value))} "
        f"(95 % interval {number(low)} to {number(high)}; {found.test}).{note}"
    )
    return Verdict("better" if better else "worse", text, found)


def verdict_on_best(measure: Measure, names: Sequence[str]) -> Verdict:
    """Return the verdict on the best of three and more groups, or of the settings of a sweep."""
    estimates = measure.estimates()
    if estimates is None:
        return Verdict("unknown", _unknown(measure, f"the {len(names)} settings"))
    comparison = compare(estimates)
    best, ties = comparison.best_and_ties(lower_is_better=measure.lower_is_better)
    others = [name for number, name in enumerate(names) if number not in ties and number != best]
    tied = [names[number] for number in sorted(ties)]
    test = f"{estimates.test}; 5 % over all pairs"
    head = f"{names[best]} has the best {measure.label}, {number(float(estimates.values[best]))}"
    note = f" {ONE_SEED}" if not measure.is_over_seeds and measure.replicates == "seeds" else ""
    if not tied:
        return Verdict("better", f"{head}, and differs from all others ({test}).{note}")
    differs = f"; it differs from {listed(others)}" if others else ""
    nearest = min((_pair(comparison, best, number) for number in ties), key=lambda each: abs(each.value))
    text = f"{head}, but is not distinguishable from {listed(tied)}{differs} ({test}).{_needed(measure, nearest)}{note}"
    return Verdict("indistinguishable", text)


def _pair(comparison: Comparison, one: int, two: int) -> Difference:
    return comparison.differences[min(one, two), max(one, two)]


def _unknown(measure: Measure, groups: str) -> str:
    return (
        f"No verdict: {groups} have one seed each, and the runs record no errors of {measure.label}. Train more seeds "
        "(diffexp train CONFIG --seeds 5), or give a score with --metric."
    )


def _needed(measure: Measure, difference: Difference) -> str:
    """Return a sentence on how many seeds or images would show a true difference as large as the observed one."""
    if not difference.value or not math.isfinite(difference.error):
        return ""
    k = len(measure.values)
    level = LEVEL / (k * (k - 1) / 2)  # of one of all pairs
    if measure.is_over_seeds:
        estimates = measure.estimates()
        assert estimates is not None
        assert estimates.sd is not None
        sd, count = estimates.sd, min(map(len, measure.values))
        settings = k - 1 if difference.test.startswith("paired") else k

        def smallest(seeds: int) -> float:
            return detectable(sd * (2 / seeds) ** 0.5, settings * (seeds - 1), level=level)

        needed = replicates_needed(difference.value, smallest, max(count, 2))
        what = f"{'more than 100,000' if needed is None else needed} {measure.replicates} each"
    else:
        images = measure.images()
        if images is None:
            return ""
        factor = detectable(difference.error, difference.df, level=level) / difference.value
        what = f"{_rounded_up(images * factor**2):,} images each"
    return f" If the true difference is the observed one, {what} would decide it (80 % power)."


def _rounded_up(count: float) -> int:
    """Return a count with two significant digits, rounded up."""
    unit: int = 10 ** max(0, math.floor(math.log10(count)) - 1)
    return math.ceil(count / unit) * unit


def number(value: float) -> str:
    """Format a difference with three significant digits and a minus sign."""
    return f"{value:.3g}".replace("-", "−")
