"""Compare two runs bit for bit, or by their scores."""

import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from scipy.stats import t as student_t
from torch import Tensor

from diffexp.evaluation.ranking import ScoreEstimate, tie
from diffexp.formatting import Table
from diffexp.runs.directory import grids

# Parts of a checkpoint that describe its origin, and Lightning's counts of starts. The metrics are compared row by row.
_ASIDE = ("config", "data", "run_id", "metrics", "epoch", "loops.fit_loop.epoch_progress")

# score/SAMPLER-WEIGHTS/fd_EXTRACTOR_COUNT or fid50k, but neither its error, fd_error_…, nor the lowest so far, …_best
_DISTANCE = re.compile(r"(score/[^/]+/)(fd_(?!error_)\S+|fid\d+k?)(?<!_best)")


@dataclass(frozen=True)
class Comparison:
    """The comparison of one kind of content of two runs.

    Attributes:
        name: the kind of content, with the number of items.
        difference: "" if the runs are equal bit for bit, else their first difference.
    """

    name: str
    difference: str

    def __str__(self) -> str:
        return f"{self.name}: {self.difference or 'equal'}"


def compare_checkpoints(before: dict[str, Any], now: dict[str, Any]) -> Comparison:
    """Compare all numbers of two checkpoints: weights, averaged weights and optimiser."""
    one = {name: value for name, value in _numbers(before) if not name.startswith(_ASIDE)}
    two = {name: value for name, value in _numbers(now) if not name.startswith(_ASIDE)}
    name = f"checkpoint ({len(one)} tensors and numbers)"
    if missing := sorted(set(one) ^ set(two)):
        return Comparison(name, f"{len(missing)} exist in only one of them, first {missing[0]}")
    differing = [key for key in one if not _equal(one[key], two[key])]
    if not differing:
        return Comparison(name, "")
    weights = [key for key in differing if key.startswith("state_dict.")]
    largest = max((_distance(one[key], two[key]) for key in weights), default=0.0)
    return Comparison(name, f"{len(differing)} differ, first {differing[0]}; weights differ by at most {largest:.2g}")


def compare_metrics(before: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]]) -> Comparison:
    """Compare all logged rows."""
    name = f"metrics ({len(before)} rows)"
    for one, two in zip(before, now, strict=False):
        for key in sorted({*one, *two}):
            if key not in one or key not in two or not _equal(one[key], two[key]):
                values = f"{one.get(key, 'nothing')} then, {two.get(key, 'nothing')} now"
                return Comparison(name, f"differ from step {one['step']}, first {key}: {values}")
    return Comparison(name, "" if len(before) == len(now) else f"{len(now)} rows now")


def compare_pictures(before: Path, now: Path, step: int, samplers: Collection[str]) -> Comparison:
    """Compare the files of all grids that training drew with some samplers up to a step.

    Args:
        before: samples/ of the recorded run.
        now: samples/ of the repeated run.
        step: the last step to compare.
        samplers: the samplers' names in the recorded config.
    """
    drawn = [(at, file) for at, name, file in grids(before) if at <= step and name in samplers]
    side_by_side = {before / f"step-{at:08d}.png" for at, _ in drawn}
    pictures = sorted({file for _, file in drawn} | {file for file in side_by_side if file.is_file()})
    differing = [file.name for file in pictures if _bytes(file) != _bytes(now / file.name)]
    difference = f"{len(differing)} differ, first {differing[0]}" if differing else ""
    return Comparison(f"sample grids ({len(pictures)})", difference)


@dataclass(frozen=True)
class Compared:
    """The last score of a sampler in the recorded and in the repeated run.

    Attributes:
        name: the name of the metric, as logged.
        before: value and standard error in the recorded run.
        now: value and standard error in the repeated run.
        seeds: values of further trainings that differ only in the seed.
    """

    name: str
    before: ScoreEstimate
    now: ScoreEstimate
    seeds: list[float]

    @property
    def spread(self) -> float:
        """The standard deviation of one training: over the seeds if there are any, else the larger standard error."""
        return stdev([self.now.value, *self.seeds]) if self.seeds else max(self.before.spread, self.now.spread)

    @property
    def same(self) -> bool:
        """Whether the scores are statistically indistinguishable.

        With seeds, `before` is within the 95 % prediction interval of Student's t for a further training.
        """
        if not self.seeds:
            return tie(self.before, self.now)
        values = [self.now.value, *self.seeds]
        likely = student_t.ppf(0.975, len(values) - 1)  # two-sided, 95 % of further trainings
        return bool(abs(self.before.value - fmean(values)) <= likely * self.spread * math.sqrt(1 + 1 / len(values)))


Rows = Sequence[dict[str, Any]]


def compare_scores(before: Rows, now: Rows, seeds: Sequence[Rows]) -> list[Compared]:
    """Compare the last distances of the recorded run with those of the other runs at the same step.

    Args:
        before: the rows of the recorded run.
        now: the rows of the repeated run.
        seeds: the rows of further trainings that differ only in the seed.
    """
    one = _last_scores(before)
    two, *more = (_last_scores(rows) for rows in (now, *seeds))
    return [
        Compared(name, score, two[name, step], [each[name, step].value for each in more if (name, step) in each])
        for (name, step), score in one.items()
        if (name, step) in two
    ]


def _last_scores(rows: Rows) -> dict[tuple[str, int], ScoreEstimate]:
    """Return the distances in the last row that has any, by name and step."""
    for row in reversed(rows):
        found = {}
        for name, value in row.items():
            match = _DISTANCE.fullmatch(name)
            if match is not None:
                error = next((row[key] for key in row if key.startswith(f"{match[1]}fd_error_")), 0.0)
                found[name, row["step"]] = ScoreEstimate(
                    value, error, ""
                )  # no protocol: `reproduce` lists differing settings first
        if found:
            return found
    return {}


def scores_table(compared: Sequence[Compared]) -> Table:
    """Return a table with one row per score."""
    rows = []
    for each in compared:
        verdict = "within it" if each.same else "outside it"
        rows.append([each.name, f"{each.before.value:.4g}", f"{each.now.value:.4g}", f"{each.spread:.2g}", verdict])
    of_seeds = any(each.seeds for each in compared)
    source = "Spread: standard deviation over the seeds." if of_seeds else "Spread: standard error of the scores."
    return Table("Scores", ["score", "then", "now", "spread", ""], rows, source)


def _numbers(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _numbers(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, (list, tuple)):
        for index, value in enumerate(content):
            yield from _numbers(value, f"{name}.{index}")
    elif isinstance(content, (Tensor, bool, int, float)):
        yield name, content


def _equal(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    return bool(one == two) or (one != one and two != two)  # NaN equals NaN


def _distance(one: Any, two: Any) -> float:
    if not isinstance(one, Tensor) or not isinstance(two, Tensor) or one.shape != two.shape:
        return math.inf
    return (one.double() - two.double()).abs().max().item() if one.numel() else 0.0


def _bytes(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError:
        return None
