"""Tables that compare runs: differing keys, comparable scores, likelihoods, cost, versions and machines."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from diffexp.config.schemas.requests import ESTIMATES, estimate_settings
from diffexp.config.trial import is_seed, leaves
from diffexp.formatting import Table, pm
from diffexp.runs.reader import RecordedScore, RunReader
from diffexp.statistics.comparison import compare
from diffexp.statistics.scores import estimate_scores

# Keys of the name and the recording of a run, which do not change the result.
_NAMING = ("name", "runs_dir", "run_dir", "wandb.", "loggers")

_ABSENT = "–"


def differing_keys(runs: Sequence[RunReader]) -> dict[str, list[str]]:
    """Return the keys that have several values: by dotted key, the value in each run, "–" where absent."""
    flat = [_flat(run.config) for run in runs]
    if len({frozenset(each) for each in flat}) > 1:  # fill in defaults of keys that a run's version lacked
        flat = [_flat(run.completed) for run in runs]
    keys = dict.fromkeys(key for each in flat for key in each if not key.startswith(_NAMING))
    found = {key: [each.get(key, _ABSENT) for each in flat] for key in keys}
    return {key: values for key, values in found.items() if len(set(values)) > 1}


def several_seeds(runs: Sequence[RunReader]) -> bool:
    """Whether some of the runs differ only in seeds."""
    settings = [values for key, values in differing_keys(runs).items() if not is_seed(key)]
    return len(runs) > 1 and len(set(zip(*settings, strict=True))) < len(runs)


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


def _flat(config: dict[str, Any]) -> dict[str, str]:
    return {".".join(path): shown(value) for path, value in leaves(config)}


def shown(value: Any) -> str:
    """Return a config's value as YAML writes it, but with at most 10 digits for floats."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, list):
        return "[" + ", ".join(map(shown, value)) + "]"
    return str(value)


def overview(runs: Sequence[RunReader]) -> Table:
    """Return a table with one row per run: the differing keys, the state, the step and the last loss."""
    differing = differing_keys(runs)
    head = ["run", *differing, "state", "step", "train/loss"]
    rows = []
    for index, run in enumerate(runs):
        loss = run.series("train/loss")
        state, step = run.status.get("state", "?"), run.status.get("step", "?")
        values = [values[index] for values in differing.values()]
        rows.append([run.label, *values, str(state), str(step), f"{loss[-1][1]:.4g}" if loss else _ABSENT])
    source = f"config.yaml, status.json and the last train/loss of metrics.jsonl of each run. {losses_compare(runs)}"
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

    def rows(self) -> list[tuple[int, str, str, int]]:
        """Return (run, sampler, weights, step) for each row of the table, sorted by run."""
        return sorted({(index, each.sampler, each.weights, each.step) for index, each in self.scores})

    def name(self, runs: Sequence[RunReader], row: tuple[int, str, str, int]) -> str:
        """Return the shortest name that distinguishes a row, for tables and plots."""
        index, sampler, weights, step = row
        run = f"{runs[index].label} " if len(runs) > 1 else ""
        at = f", step {step}" if len({each.step for _, each in self.scores}) > 1 else ""
        return f"{run}{sampler}{at}" + ("" if weights == "ema" else f", {weights} weights")

    def at(self, row: tuple[int, str, str, int]) -> dict[int, RecordedScore]:
        """Return the scores of a row, by network calls."""
        chosen = [s for index, s in self.scores if (index, s.sampler, s.weights, s.step) == row]
        return {each.network_calls: each for each in sorted(chosen, key=lambda each: each.network_calls)}

    def table(self, runs: Sequence[RunReader]) -> Table:
        """Return the table of samplers × network calls.

        Bold marks the lowest score of a column, = those statistically indistinguishable from it. If some runs differ
        only in seeds, nothing is bold: the lowest score would be luck.
        """
        rows, columns = self.rows(), sorted({each.network_calls for _, each in self.scores})
        texts, bold = [], set()
        grid = [self.at(row) for row in rows]
        marks: dict[tuple[int, int], str] = {}
        tests: dict[str, None] = {}
        for column, calls in enumerate(columns):
            filled = [number for number, each in enumerate(grid) if calls in each]
            if several_seeds([runs[index] for index in sorted({rows[number][0] for number in filled})]):
                continue
            estimates = estimate_scores([grid[number][calls].scored() for number in filled])
            if estimates is None or len(filled) < 2:
                continue
            tests[estimates.test] = None
            best, ties = compare(estimates).best_and_ties()
            bold.add((filled[best], column + 1))
            marks |= {(filled[tie], column): " =" for tie in ties}
        for number, (row, scores) in enumerate(zip(rows, grid, strict=True)):
            cells = [
                pm(scores[calls].value, scores[calls].spread) + marks.get((number, column), "")
                if calls in scores
                else ""
                for column, calls in enumerate(columns)
            ]
            texts.append([self.name(runs, row), *cells])
        files = sorted({str(each.source) for _, each in self.scores})
        counts = sorted({(each.blocks, each.count) for _, each in self.scores})
        images = ", ".join(f"{times} × {count} images" if times > 1 else f"{count} images" for times, count in counts)
        at = sorted({each.step for _, each in self.scores})
        steps = f"step {at[0]}" if len(at) == 1 else f"steps {at[0]} to {at[-1]}"
        marked = (
            "Bold: lowest of a column; =: not significantly different from it "
            f"({'; '.join(tests)}; two-sided 5 % over all pairs of the column)."
        )
        if not bold:
            marked = "None is marked as the lowest: runs that differ only in seeds are draws of one setting."
        source = (
            f"Lower is better; {steps}; {images}: mean ± standard deviation over several blocks, ± standard error for "
            f"one block. {marked} From {_listed(files)}."
        )
        return Table(
            f"Scores {self.title}", ["sampler \\ network calls", *map(str, columns)], texts, source, frozenset(bold)
        )


def comparable(runs: Sequence[RunReader]) -> list[Comparable]:
    """Return the last scores of all runs, in comparable groups."""
    groups: dict[tuple[str, str], dict[tuple[int, str, str, int], tuple[int, RecordedScore]]] = {}
    for index, run in enumerate(runs):
        latest: dict[tuple[str, str, str, str, int], RecordedScore] = {}
        for score in run.scores:  # sorted by step
            key = (score.metric, score.protocol, score.sampler, score.weights, score.network_calls)
            before = latest.get(key)
            if before is None or (score.step, score.blocks) >= (before.step, before.blocks):
                latest[key] = score
        for score in latest.values():
            place = (index, score.sampler, score.weights, score.network_calls)
            groups.setdefault((score.metric, score.protocol), {})[place] = (index, score)
    return [Comparable(metric, protocol, list(found.values())) for (metric, protocol), found in groups.items()]


def likelihoods(runs: Sequence[RunReader]) -> Table | None:
    """Return a table of bits per dimension, or None if no run has any."""
    rows = []
    files = []
    there = {name for run in runs for _, values, _ in run.likelihoods for name in values}
    names = [*(name for name in ESTIMATES if name in there), *sorted(there - set(ESTIMATES))]
    for run in runs:
        for about, values, file in run.likelihoods:
            files.append(str(file))
            cells = [_mean(values[name]) if name in values else "" for name in names]
            step, images = str(about["step"]), f"{about['count']} of {about['likelihood']['split']}"
            settings = "; ".join(filter(None, (estimate_settings(name, about) for name in values)))
            rows.append([run.label, step, about["weights"], images, settings, *cells])
    if not rows:
        return None
    head = ["run", "step", "weights", "images", "settings", *(ESTIMATES.get(name, name) for name in names)]
    source = f"Bits per dimension, lower is better, ± standard error over the images. From {_listed(files)}."
    return Table("Bits per dimension", head, rows, source)


def _mean(values: Sequence[float]) -> str:
    return pm(fmean(values), stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None)


def cost(runs: Sequence[RunReader]) -> Table:
    """Return a table of the cost of training and of scored samples."""
    rows = []
    for run in runs:
        step, seconds = run.status.get("step"), run.status.get("seconds")
        batch = run.setting("training", "batch_size")
        images = f"{step * batch:,}" if step is not None and isinstance(batch, int) else _ABSENT
        calls = sum(each.network_calls * each.blocks * each.count for each in run.scores)
        drawn = sum(each.blocks * each.count for each in run.scores)
        scoring = sum(each.blocks * each.seconds for each in run.scores)
        device = ", ".join(map(str, run.environment.get("gpus", []))) or f"{run.environment.get('cpus', '?')} CPUs"
        trained = _ABSENT if seconds is None else f"{seconds:,.0f}"
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
    rows = [[run.label, *(each.get(key, _ABSENT) for key in keys)] for run, each in zip(runs, flat, strict=True)]
    return Table("Versions and machines", ["run", *keys], rows, "environment.json of each run.")


def environment_facts(environment: dict[str, Any]) -> dict[str, str]:
    """Return the versions and the machine in environment.json, by dotted key."""
    aside = ("command", "earlier", "run_id", "saved", "changes", "slurm", "plugins")
    return {".".join(path): shown(value) for path, value in leaves(environment) if path[0] not in aside}


def _listed(files: Sequence[str]) -> str:
    few = 4
    return ", ".join(files[:few]) + (f" and {len(files) - few} more" if len(files) > few else "")
