"""Tables that compare runs: differing keys, comparable scores, likelihoods, cost, versions and machines."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from diffexp.config.schemas.requests import ESTIMATES, estimate_settings
from diffexp.config.trial import leaves
from diffexp.formatting import Table, pm
from diffexp.reports.groups import ABSENT, RunGroup, at_common_step, differing_keys, grouped, mean_text, shown
from diffexp.runs.reader import RecordedScore, RunReader
from diffexp.statistics.comparison import compare
from diffexp.statistics.estimates import Estimates, over_replicates
from diffexp.statistics.scores import estimate_scores

# The scores of the runs of a setting, by what identifies their seeds.
Replicates = dict[Hashable, RecordedScore]


def losses_compare(runs: Sequence[RunReader]) -> str:
    """Return a sentence on whether the training losses are comparable, with the keys that prevent it.

    A loss depends on the target, the noise schedule and the images: if one of them differs, it is another quantity.
    """
    where = ("data.path", "data.root", "data.num_workers", "data.memory_gb", "model.network.")
    differing = [
        key for key in differing_keys(runs) if key.startswith(("model.", "data.")) and not key.startswith(where)
    ]
    if differing:
        return f"Not comparable between these runs, which differ in {', '.join(differing)}."
    return "From train/loss in metrics.jsonl of each run."


def overview(runs: Sequence[RunReader]) -> Table:
    """Return a table with one row per setting: the differing keys, the seeds, the state, the step and the last loss."""
    groups, differing = grouped(runs), differing_keys(runs)
    rows = []
    for group in groups:
        members = [runs[index] for index in group.indices]
        values = [", ".join(dict.fromkeys(each[index] for index in group.indices)) for each in differing.values()]
        states = Counter(str(run.status.get("state", "?")) for run in members)
        state = ", ".join(f"{count} {state}" if len(members) > 1 else state for state, count in states.items())
        steps = sorted({run.status.get("step", "?") for run in members}, key=str)
        losses = [loss for run in members if (loss := dict(run.series("train/loss")))]
        last = [loss for loss in at_common_step(losses)[1] if loss is not None] if losses else []
        rows.append([group.label, *values, state, ", ".join(map(str, steps)), mean_text(last) if last else ABSENT])
    source = f"config.yaml, status.json and the last train/loss of metrics.jsonl of each run. {losses_compare(runs)}"
    if len(groups) < len(runs):
        source += " A row has the runs that differ only in seeds: the mean and its 95 % interval (Student's t)."
    head = ["run" if len(groups) == len(runs) else "runs", *differing, "state", "step", "train/loss"]
    return Table("What differs", head, rows, source)


@dataclass(frozen=True)
class Comparable:
    """Comparable scores: one metric under one protocol.

    Attributes:
        metric: the name of the distance, with extractor and count.
        protocol: the id of the protocol.
        scores: (index of the run, score), from the last step at which each run scored a sampler.
    """

    metric: str
    protocol: str
    scores: list[tuple[int, RecordedScore]]

    @property
    def title(self) -> str:
        """The metric and its protocol."""
        return f"{self.metric}, protocol {self.protocol}"

    def rows(self, groups: Sequence[RunGroup]) -> list[tuple[int, str, str, int]]:
        """Return (group, sampler, weights, step) for each row of the table, sorted by group."""
        group_of = {index: number for number, group in enumerate(groups) for index in group.indices}
        return sorted({(group_of[index], each.sampler, each.weights, each.step) for index, each in self.scores})

    def name(self, groups: Sequence[RunGroup], row: tuple[int, str, str, int]) -> str:
        """Return the shortest name that distinguishes a row, for tables and plots."""
        number, sampler, weights, step = row
        run = f"{groups[number].label} " if len(groups) > 1 else ""
        at = f", step {step}" if len({each.step for _, each in self.scores}) > 1 else ""
        return f"{run}{sampler}{at}" + ("" if weights == "ema" else f", {weights} weights")

    def at(self, groups: Sequence[RunGroup], row: tuple[int, str, str, int]) -> dict[int, Replicates]:
        """Return the scores of a row by network calls, and for each by seeds."""
        number, *place = row
        seeds = dict(zip(groups[number].indices, groups[number].seeds, strict=True))
        found: dict[int, Replicates] = {}
        for index, each in sorted(self.scores, key=lambda score: (score[1].network_calls, score[0])):
            if index in seeds and [each.sampler, each.weights, each.step] == place:
                found.setdefault(each.network_calls, {})[seeds[index]] = each
        return found

    def table(self, runs: Sequence[RunReader]) -> Table:
        """Return the table of samplers × network calls, with a row for each setting.

        Bold marks the lowest score of a column, = those statistically indistinguishable from it.
        """
        groups = grouped(runs)
        rows, columns = self.rows(groups), sorted({each.network_calls for _, each in self.scores})
        grid = [self.at(groups, row) for row in rows]
        bold: set[tuple[int, int]] = set()
        marks: dict[tuple[int, int], str] = {}
        tests: dict[str, None] = {}
        for column, calls in enumerate(columns):
            filled = [number for number, each in enumerate(grid) if calls in each]
            estimates = _estimates([grid[number][calls] for number in filled])
            if estimates is None:
                continue
            tests[estimates.test] = None
            best, ties = compare(estimates).best_and_ties()
            bold.add((filled[best], column + 1))
            marks |= {(filled[tie], column): " =" for tie in ties}
        texts = [
            [
                self.name(groups, row),
                *(
                    score_text(scores[calls]) + marks.get((number, column), "") if calls in scores else ""
                    for column, calls in enumerate(columns)
                ),
            ]
            for number, (row, scores) in enumerate(zip(rows, grid, strict=True))
        ]
        head = ["sampler \\ network calls", *map(str, columns)]
        return Table(f"Scores {self.title}", head, texts, self._source(grid, list(tests)), frozenset(bold))

    def _source(self, grid: Sequence[dict[int, Replicates]], tests: Sequence[str]) -> str:
        """Return sentences on what the table shows, and the files that it was read from."""
        files = sorted({str(each.source) for _, each in self.scores})
        counts = sorted({(each.blocks, each.count) for _, each in self.scores})
        images = ", ".join(f"{times} × {count} images" if times > 1 else f"{count} images" for times, count in counts)
        at = sorted({each.step for _, each in self.scores})
        steps = f"step {at[0]}" if len(at) == 1 else f"steps {at[0]} to {at[-1]}"
        seeds = sorted({len(each) for row in grid for each in row.values()})
        means = []
        if seeds[-1] > 1:
            means.append(f"mean (95 % interval, Student's t) over n = {' or '.join(map(str, seeds))} seeds")
        if seeds[0] == 1:
            means.append("mean ± standard deviation over several blocks, ± standard error for one block")
        marks = (
            "Bold: lowest of a column; =: not significantly different from it "
            f"({'; '.join(tests)}; two-sided 5 % over all pairs of the column). "
        )
        if seeds[-1] == 1 and len({index for index, _ in self.scores}) > 1:
            marks += "With one seed each, the marks hold for these trainings and not for their settings. "
        return f"Lower is better; {steps}; {images}: {'; '.join(means)}. {marks if tests else ''}From {_listed(files)}."


def score_text(scores: Replicates) -> str:
    """Format the scores of a setting: the mean with its interval over seeds, or one score with its error."""
    if len(scores) == 1:
        (only,) = scores.values()
        return pm(only.value, only.spread)
    return mean_text([each.value for each in scores.values()])


def _estimates(column: Sequence[Replicates]) -> Estimates | None:
    """Return the estimates of the settings in a column, over their seeds or else over images; None if unknown."""
    if len(column) < 2:
        return None
    if max(map(len, column)) > 1:
        return over_replicates([{seed: each.value for seed, each in scores.items()} for scores in column])
    return estimate_scores([each.scored("fd") for scores in column for each in scores.values()])


def comparable(runs: Sequence[RunReader]) -> list[Comparable]:
    """Return the last scores of all runs, in comparable groups.

    The runs of a setting are scored at the same step: the last one that most of them have scored.
    """
    found: dict[tuple[str, str], dict[Hashable, dict[int, dict[int, RecordedScore]]]] = {}
    for number, group in enumerate(grouped(runs)):
        for index in group.indices:
            for score in runs[index].scores:
                places = found.setdefault((score.metric, score.protocol), {})
                place = (number, score.sampler, score.weights, score.network_calls)
                by_step = places.setdefault(place, {}).setdefault(index, {})
                before = by_step.get(score.step)
                if before is None or score.blocks >= before.blocks:
                    by_step[score.step] = score
    return [
        Comparable(metric, protocol, [score for by_run in places.values() for score in _last(by_run)])
        for (metric, protocol), places in found.items()
    ]


def _last(by_run: dict[int, dict[int, RecordedScore]]) -> list[tuple[int, RecordedScore]]:
    """Return (index of the run, score) at the last step that most of the runs have scored."""
    _, scores = at_common_step(list(by_run.values()))
    return [(index, score) for index, score in zip(by_run, scores, strict=True) if score is not None]


def likelihoods(runs: Sequence[RunReader]) -> Table | None:
    """Return a table of bits per dimension, or None if no run has any."""
    files = []
    there = {name for run in runs for _, values, _ in run.likelihoods for name in values}
    names = [*(name for name in ESTIMATES if name in there), *sorted(there - set(ESTIMATES))]
    # by group, step, weights, images and settings: the bits of each image by estimate, a mapping for each run
    rows: dict[tuple[str, ...], list[dict[str, list[float]]]] = {}
    for group in grouped(runs):
        for index in group.indices:
            for about, values, file in runs[index].likelihoods:
                files.append(str(file))
                step, images = str(about["step"]), f"{about['count']} of {about['likelihood']['split']}"
                settings = "; ".join(filter(None, (estimate_settings(name, about) for name in values)))
                rows.setdefault((group.label, step, about["weights"], images, settings), []).append(values)
    if not rows:
        return None
    texts = [
        [*row, *(_bits([each[name] for each in found if name in each]) for name in names)]
        for row, found in rows.items()
    ]
    head = ["run", "step", "weights", "images", "settings", *(ESTIMATES.get(name, name) for name in names)]
    source = "Bits per dimension, lower is better, ± standard error over the images"
    several = sorted({len(found) for found in rows.values()} - {1})
    if several:
        source += f"; of n = {' or '.join(map(str, several))} seeds, the mean (95 % interval, Student's t)"
    return Table("Bits per dimension", head, texts, f"{source}. From {_listed(files)}.")


def _bits(runs: Sequence[Sequence[float]]) -> str:
    """Format the bits of the images (images,) of one run with their standard error, or the mean of several runs."""
    if len(runs) > 1:
        return mean_text([fmean(each) for each in runs])
    return "".join(pm(fmean(each), stdev(each) / math.sqrt(len(each)) if len(each) > 1 else None) for each in runs)


def cost(runs: Sequence[RunReader]) -> Table:
    """Return a table of the cost of training and of scored samples."""
    rows = []
    for run in runs:
        step, seconds = run.status.get("step"), run.status.get("seconds")
        batch = run.setting("training", "batch_size")
        images = f"{step * batch:,}" if step is not None and isinstance(batch, int) else ABSENT
        calls = sum(each.network_calls * each.blocks * each.count for each in run.scores)
        drawn = sum(each.blocks * each.count for each in run.scores)
        scoring = sum(each.blocks * each.seconds for each in run.scores)
        device = ", ".join(map(str, run.environment.get("gpus", []))) or f"{run.environment.get('cpus', '?')} CPUs"
        trained = ABSENT if seconds is None else f"{seconds:,.0f}"
        rows.append([run.label, device, images, trained, f"{drawn:,}", f"{calls:,}", f"{scoring:,.0f}"])
    head = ["run", "device", "images trained on", "seconds in training", "images scored", "network calls", "seconds"]
    source = (
        "Training: step × batch size, and the seconds of status.json, which include scores and grids during training. "
        "Scoring: scores/ and evaluations/, network calls × images."
    )
    return Table("Cost", head, rows, source)


def environments(runs: Sequence[RunReader]) -> Table:
    """Return a table of differing versions and machines, or of all of them for a single run."""
    flat = [environment_facts(run.environment) for run in runs]
    keys = dict.fromkeys(key for each in flat for key in each)
    if len(runs) > 1:
        keys = {key: None for key in keys if len({each.get(key) for each in flat}) > 1}
    rows = [[run.label, *(each.get(key, ABSENT) for key in keys)] for run, each in zip(runs, flat, strict=True)]
    return Table("Versions and machines", ["run", *keys], rows, "environment.json of each run.")


def environment_facts(environment: dict[str, Any]) -> dict[str, str]:
    """Return the versions and the machine in environment.json, by dotted key."""
    aside = ("command", "earlier", "run_id", "saved", "changes", "slurm", "plugins")
    return {".".join(path): shown(value) for path, value in leaves(environment) if path[0] not in aside}


def _listed(files: Sequence[str]) -> str:
    few = 4
    return ", ".join(files[:few]) + (f" and {len(files) - few} more" if len(files) > few else "")
