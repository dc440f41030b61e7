"""Tables of the measures behind a verdict."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from diffexp.formatting import Table
from diffexp.reports.groups import ABSENT, mean_text
from diffexp.reports.measures import Measure
from diffexp.reports.verdict import difference_of, number
from diffexp.statistics.comparison import LEVEL, Difference, compare, holm


@dataclass(frozen=True)
class ComparedPair:
    """A measure of two groups, one of several that are compared together.

    Attributes:
        name: the name of its row.
        measure: the measure.
        difference: the second group minus the first; None if the errors are unknown.
        adjusted: the p-value corrected for all rows.
    """

    name: str
    measure: Measure
    difference: Difference | None
    adjusted: float | None

    @property
    def outcome(self) -> str:
        """What the second group is at 5 % over all rows; "" if the errors are unknown."""
        if self.difference is None or self.adjusted is None:
            return ""
        if not self.adjusted < LEVEL:
            return "indistinguishable"
        return "better" if (self.difference.value < 0) == self.measure.lower_is_better else "worse"


def compared_pairs(rows: Sequence[tuple[str, Measure]]) -> list[ComparedPair]:
    """Compare two groups by several measures, or in several settings, with p-values corrected for all (Holm)."""
    differences = [difference_of(measure) for _, measure in rows]
    adjusted = iter(holm(np.array([each.p for each in differences if each is not None])).tolist())
    return [
        ComparedPair(name, measure, difference, None if difference is None else next(adjusted))
        for (name, measure), difference in zip(rows, differences, strict=True)
    ]


def measures_table(pairs: Sequence[ComparedPair], names: tuple[str, str], note: str) -> Table:
    """Return a table of the measures of two groups, their difference, its interval and the test.

    Args:
        pairs: the measures.
        names: the names of the groups.
        note: what to add to the sentence on p-values of several measures.
    """
    return _pairs_table("measure", pairs, names, note)


def settings_table(pairs: Sequence[ComparedPair], names: tuple[str, str]) -> Table:
    """Return a table of the settings of two sweeps, with what the second sweep is in each."""
    table = _pairs_table("setting", pairs, names, "")
    rows = [[*row, each.outcome] for row, each in zip(table.rows, pairs, strict=True)]
    return replace(table, head=[*table.head, f"{names[1]} is"], rows=rows)


def _pairs_table(what: str, pairs: Sequence[ComparedPair], names: tuple[str, str], note: str) -> Table:
    lines = []
    for each in pairs:
        steps = " / ".join(map(str, dict.fromkeys(each.measure.steps)))
        cells = [ABSENT] * 4
        if each.difference is not None and each.adjusted is not None:
            low, high = each.difference.interval()
            interval = f"{number(low)} to {number(high)}"
            cells = [number(each.difference.value), interval, f"{each.adjusted:.2g}", each.difference.test]
        lines.append([each.name, steps, *(mean_text(list(side.values())) for side in each.measure.values), *cells])
    head = [what, "step", *names, f"{names[1]} − {names[0]}", "95 % interval", "p", "test"]
    source = f"p: two-sided, corrected for all {what}s (Holm){note}." if len(pairs) > 1 else "p: two-sided."
    if any(each.measure.is_over_seeds for each in pairs):
        source += " In brackets: 95 % interval of the mean over seeds (Student's t)."
    return Table(f"{what.capitalize()}s", head, lines, source)


def groups_table(measures: Sequence[Measure], names: Sequence[str]) -> Table:
    """Return a table of several groups: bold marks the best of each measure, = what is indistinguishable from it."""
    lines: list[list[str]] = []
    bold: set[tuple[int, int]] = set()
    tests: dict[str, None] = {}
    columns = [measure.label for measure in measures]
    marks: dict[tuple[int, int], str] = {}
    for column, measure in enumerate(measures):
        estimates = measure.estimates()
        if estimates is not None:
            tests[estimates.test] = None
            best, ties = compare(estimates).best_and_ties(lower_is_better=measure.lower_is_better)
            bold.add((best, column + 1))
            marks |= {(tie, column): " =" for tie in ties}
    for row, name in enumerate(names):
        values = [mean_text(list(measure.values[row].values())) for measure in measures]
        lines.append([name, *(f"{text}{marks.get((row, column), '')}" for column, text in enumerate(values))])
    source = (
        "Bold: best of a column; =: not significantly different from it "
        f"({'; '.join(tests)}; two-sided 5 % over all pairs of the column)."
    )
    return Table("Measures", ["group", *columns], lines, source if tests else "", frozenset(bold))
