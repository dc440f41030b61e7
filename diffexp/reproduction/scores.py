"""Compare the last scores of a recorded run with those of its repetitions."""

import math
import re
from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from diffexp.formatting import Table
from diffexp.reports.measures import Measure
from diffexp.reports.verdict import verdict_on_pair
from diffexp.reports.verdict_tables import ComparedPair, compared_pairs, measures_table
from diffexp.runs.directory import Run
from diffexp.runs.reader import RunReader
from diffexp.statistics.scores import ScoredBlock

# score/SAMPLER-WEIGHTS/fd_EXTRACTOR_COUNT or fid50k, but neither its error, fd_error_…, nor the lowest so far, …_best
_DISTANCE = re.compile(r"(score/[^/]+/)(fd_(?!error_)\S+|fid\d+k?)(?<!_best)")

_NAMES = ("then", "now")

Rows = Sequence[dict[str, Any]]


def compare_scores(
    before: Rows, now: Rows, seeds: Sequence[Rows], runs: tuple[Run | None, Run | None] = (None, None)
) -> list[ComparedPair]:
    """Compare the last distances of the recorded run with those of its repetitions at the same step.

    With further seeds, the recorded score is compared with the trainings' spread; this is Student's t prediction
    interval of a further training. Without, the two scores are compared over their images, paired where both runs have
    recorded the influences.

    Args:
        before: the rows of the recorded run.
        now: the rows of the repeated run.
        seeds: the rows of further trainings that differ only in the seed.
        runs: the recorded and the repeated run, if they have a directory.
    """
    one = _last_scores(before)
    two, *more = (_last_scores(rows) for rows in (now, *seeds))
    rows = []
    for (name, step), (value, error) in one.items():
        if (name, step) not in two:
            continue
        repeated: dict[Hashable, float] = {
            number: each[name, step][0] for number, each in enumerate([two, *more]) if (name, step) in each
        }
        scores = ((value, error), two[name, step])
        blocks = tuple(partial(_blocks, run, name, step, *score) for run, score in zip(runs, scores, strict=True))
        rows.append((name, Measure(name, name, True, (step, step), ({"then": value}, repeated), blocks=blocks)))
    return compared_pairs(rows)


def is_same(compared: Sequence[ComparedPair]) -> bool:
    """Whether no score differs significantly from the recorded one, at 5 % over all scores."""
    return all(each.outcome == "indistinguishable" for each in compared)


def scores_table(compared: Sequence[ComparedPair]) -> Table:
    """Return a table with one row per score."""
    return measures_table(compared, _NAMES, "")


def verdict(compared: Sequence[ComparedPair]) -> str:
    """Return a sentence on the score that differs most; one without an error only if there is no other."""
    most = min(compared, key=lambda each: math.inf if each.adjusted is None else each.adjusted)
    note = ""
    if not most.measure.is_over_seeds and most.outcome not in ("", "indistinguishable"):
        note = "Rounding alone can change a training as much as another seed does. Measure that spread with --seeds 3."
    difference = most.difference
    if difference is not None and most.adjusted is not None:
        difference = replace(difference, adjusted=most.adjusted)
    over_images = not most.measure.is_over_seeds
    return verdict_on_pair(most.measure, _NAMES, difference=difference, note=note, power=over_images).sentence


def _last_scores(rows: Rows) -> dict[tuple[str, int], tuple[float, float | None]]:
    """Return the distances in the last row that has any, with their standard errors, by name and step."""
    for row in reversed(rows):
        found = {}
        for name, value in row.items():
            match = _DISTANCE.fullmatch(name)
            if match is not None:
                error = next((row[key] for key in row if key.startswith(f"{match[1]}fd_error_")), None)
                found[name, row["step"]] = (value, error)
        if found:
            return found
    return {}


def _blocks(run: Run | None, name: str, step: int, value: float, error: float | None) -> list[ScoredBlock]:
    """Return the images behind a logged score, from the run's files if it has any."""
    metric = name.rpartition("/")[2]
    scores = [] if run is None or not run.exists() else RunReader(run.path, "").scores
    for score in scores:
        if (score.step, score.metric, score.value) == (step, metric, value):
            return score.scored("fd")
    return [ScoredBlock(None, value, error)]
