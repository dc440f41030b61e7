"""`diffexp compare`: what differs between groups of runs, the measures they have in common, and the verdict."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffexp.commands.compare_groups import Side, find_sides
from diffexp.errors import UserError
from diffexp.formatting import Table
from diffexp.reports.groups import differing_settings
from diffexp.reports.measures import Measure, find_measure, measures
from diffexp.reports.over_settings import over_settings
from diffexp.reports.tables import comparable, cost, environments, likelihoods, losses_compare, overview
from diffexp.reports.verdict import Verdict, verdict_on_best, verdict_on_pair
from diffexp.reports.verdict_tables import ComparedPair, compared_pairs, groups_table, measures_table, settings_table
from diffexp.runs.reader import RunReader
from diffexp.sweeps.spec.file import SweepMetric

_FEW = 4  # runs, which are easier to read as columns
_MOST = 100  # groups that are compared: the pairs grow with the square
PAIR = ("A", "B")


@dataclass(frozen=True)
class GroupComparison:
    """A comparison of groups of runs.

    Attributes:
        runs: all runs.
        groups: by the name of each group, its label and its runs.
        table: the table behind the verdict; None without a measure.
        pairs: the rows of that table, for two groups.
        measure: the measure of the verdict; None without one.
        verdict: the verdict; None for a single group.
    """

    runs: list[RunReader]
    groups: dict[str, tuple[str, list[RunReader]]]
    table: Table | None = None
    pairs: Sequence[ComparedPair] = ()
    measure: Measure | None = None
    verdict: Verdict | None = None

    def text(self) -> str:
        """Format the tables of what differs, then the table behind the verdict, and at last the verdict."""
        parts = [f"# {table.title}\n\n{table.markdown()}" for table in _tables(self.runs)]
        if self.verdict is not None:
            legend = "".join(
                f"{name}: {label}{_runs(label, runs)}\n" for name, (label, runs) in self.groups.items() if name != label
            )
            title, table = ("Verdict", "") if self.table is None else (self.table.title, self.table.markdown())
            lines = [f"# {title}\n", legend, table, self.verdict.sentence]
            parts.append("\n".join(filter(None, lines)) + "\n")
        return "\n".join(parts)

    def json(self) -> str:
        """Format the comparison as JSON."""
        content = {
            "groups": [
                {"name": name, "label": label, "runs": [str(run.path) for run in runs]}
                for name, (label, runs) in self.groups.items()
            ],
            "differs": self._differs(),
            "compared": [_record(each) for each in self.pairs],
            "verdict": None if self.verdict is None else {
                "measure": None if self.measure is None else self.measure.label,
                "outcome": self.verdict.outcome,
                "sentence": self.verdict.sentence,
            },
        }  # fmt: skip
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def _differs(self) -> dict[str, dict[str, list[str]]]:
        """Return by key and group the different values of the keys that differ, without seeds."""
        number = {run.path: index for index, run in enumerate(self.runs)}
        return {
            key: {
                name: list(dict.fromkeys(values[number[run.path]] for run in runs))
                for name, (_, runs) in self.groups.items()
            }
            for key, values in differing_settings(self.runs).items()
        }


def compare_groups(arguments: Sequence[str], metric: str | None) -> GroupComparison:
    """Compare runs, groups of seeds or sweeps.

    The verdict tests one measure, which is chosen before its values are seen: `metric`, else that of the sweep, else
    the first score that all groups have, else their loss on held-out images.

    Args:
        arguments: the groups; see `find_sides`.
        metric: the measure of the verdict, by name, label or name in metrics.jsonl.

    Raises:
        UserError: if the arguments name no groups that can be compared, or they lack the metric.
    """
    sides = find_sides(arguments)
    if len(sides) == 2 and all(side.settings for side in sides):
        return _compare_sweeps(sides[0], sides[1], metric)
    if len(sides) == 1 and sides[0].settings:
        # the seeds that a setting lacks may be those that failed
        complete = [each for each in sides[0].settings if each.name not in sides[0].incomplete]
        groups = [(each.name, each.runs) for each in (complete if len(complete) > 1 else sides[0].settings)[:_MOST]]
    elif any(side.settings for side in sides):
        several = next(side for side in sides if side.settings)
        raise UserError(
            f"{several.argument}: expected a sweep over seeds alone, or two sweeps, got one of {len(several.settings)} "
            "settings and other runs. Give the runs of one setting, as RUN,RUN or as a pattern."
        )
    else:
        groups = [(side.label, side.runs) for side in sides]
    runs = [run for side in sides for run in side.runs]
    if len(groups) == 1:
        return GroupComparison(runs, dict(zip(PAIR, groups, strict=False)))
    names = PAIR if len(groups) == 2 else tuple(label for label, _ in groups)
    members = [each for _, each in groups]
    found = measures(members)
    measure = _chosen(found, members, metric, next((side.metric for side in sides if side.metric), None))
    by_name = dict(zip(names, groups, strict=True))
    if measure is None:
        return GroupComparison(runs, by_name, verdict=Verdict("unknown", _NO_MEASURE))
    found = [measure, *(each for each in found if each != measure)]
    if len(groups) == 2:
        pairs = compared_pairs([(each.label, each) for each in found])
        verdict = _with_missing(_with_caveat(verdict_on_pair(measure, PAIR), measure, runs), sides, groups)
        return GroupComparison(
            runs,
            by_name,
            measures_table(pairs, PAIR, "; the verdict tests the first one alone"),
            pairs,
            measure,
            verdict,
        )
    verdict = _with_missing(_with_caveat(verdict_on_best(measure, names), measure, runs), sides, groups)
    return GroupComparison(runs, by_name, groups_table(found, names), (), measure, verdict)


def _compare_sweeps(one: Side, two: Side, metric: str | None) -> GroupComparison:
    """Compare two sweeps setting by setting, and over all settings that both have."""
    others = {setting.key: setting for setting in two.settings}
    shared = [(setting, others[setting.key]) for setting in one.settings if setting.key in others]
    if not shared:
        raise UserError(
            f"{two.argument}: expected settings that {one.argument} also has, got none. Compare their runs."
        )
    rows: list[tuple[str, Measure]] = []
    for a, b in shared:
        sides = [a.runs, b.runs]
        measure = _chosen(measures(sides), sides, metric, one.metric)
        if measure is not None:
            rows.append((a.name, measure))
    runs = [*one.runs, *two.runs]
    groups = dict(zip(PAIR, ((side.argument, side.runs) for side in (one, two)), strict=True))
    if not rows:
        return GroupComparison(runs, groups, verdict=Verdict("unknown", _NO_MEASURE))
    pairs = compared_pairs(rows)
    measure, difference = over_settings(rows)
    counts = ", ".join(
        f"{outcome} in {sum(each.outcome == outcome for each in pairs)}"
        for outcome in ("better", "worse", "indistinguishable")
    )
    verdict = verdict_on_pair(measure, PAIR, difference=difference, power=len(rows) == 1)
    text = f"{verdict.sentence} B is {counts} of {len(shared)} shared settings."
    verdict = _with_caveat(replace(verdict, sentence=text), measure, runs)
    return GroupComparison(runs, groups, settings_table(pairs, PAIR), pairs, measure, verdict)


def _with_caveat(verdict: Verdict, measure: Measure, runs: Sequence[RunReader]) -> Verdict:
    """Add to a verdict by the training loss that the losses are different quantities, if they are."""
    caveat = losses_compare(runs)
    if not measure.name.startswith("train/") or not caveat.startswith("Not comparable"):
        return verdict
    return replace(verdict, sentence=f"{verdict.sentence} {caveat}")


def _with_missing(
    verdict: Verdict, sides: Sequence[Side], groups: Sequence[tuple[str, Sequence[RunReader]]]
) -> Verdict:
    """Add the names of the settings of a sweep that are not compared, because they lack results."""
    compared = {label for label, _ in groups}
    missing = [name for side in sides for name in side.incomplete if side.settings and name not in compared]
    if not missing:
        return verdict
    text = f"{verdict.sentence} Not compared, because a trial has no result: {', '.join(missing)}."
    return replace(verdict, sentence=text)


def _chosen(
    found: Sequence[Measure], sides: Sequence[Sequence[RunReader]], metric: str | None, of_sweep: SweepMetric | None
) -> Measure | None:
    """Return the measure of the verdict; None if the groups have none."""
    if metric is not None:
        lower = of_sweep.goal == "minimize" if of_sweep is not None and of_sweep.name == metric else None
        measure = find_measure(found, sides, metric, lower_is_better=lower)
        if measure is None:
            names = ", ".join(dict.fromkeys(each.name for each in found)) or "none"
            raise UserError(f"--metric: expected a metric that all groups have ({names}), got {metric}. Give another.")
        return measure
    if of_sweep is not None:
        measure = find_measure(found, sides, of_sweep.name, lower_is_better=of_sweep.goal == "minimize")
        if measure is not None:
            return measure
    return next(iter(found), None)


_NO_MEASURE = (
    "No verdict: the groups have no score of one protocol in common. Score them alike: diffexp evaluate RUN, with the "
    "same count and extractor."
)


def _record(pair: ComparedPair) -> dict[str, Any]:
    """Return a row of the table as plain data."""
    difference = pair.difference
    tested = None if difference is None else {
        "value": difference.value,
        "interval": list(difference.interval()),
        "p": difference.p,
        "adjusted": pair.adjusted,
        "test": difference.test,
    }  # fmt: skip
    values = [[*each.values()] for each in pair.measure.values]
    names = {"name": pair.name, "measure": pair.measure.label, "steps": list(pair.measure.steps)}
    return {**names, "values": values, "difference": tested, "outcome": pair.outcome}


def _runs(label: str, runs: Sequence[RunReader]) -> str:
    """Return the number of runs of a group, or the path of its only run unless that is its label."""
    if len(runs) > 1:
        return f" ({len(runs)} runs)"
    return "" if str(runs[0].path) == label else f" ({runs[0].path})"


def _tables(runs: Sequence[RunReader]) -> list[Table]:
    """Return the tables of what differs between the runs: configs, scores, cost, schedules and versions."""
    summary = overview(runs)
    found = [summary.transposed() if len(summary.rows) <= _FEW else summary]
    found += [group.table(runs) for group in comparable(runs)]
    bits = likelihoods(runs)
    found += [*([bits] if bits is not None else []), cost(runs)]
    if any(key.startswith(("model.schedule", "model.timesteps")) for key in differing_settings(runs)):
        from diffexp.reports.schedules import schedules, terminal_signals  # imports torch

        found.append(terminal_signals(schedules(runs)))
    versions = environments(runs)
    if len(versions.head) > 1:
        found.append(versions.transposed() if len(runs) <= _FEW else versions)
    return found
