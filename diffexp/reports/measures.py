"""Quantities that several groups of runs have in common, measured alike, so that the groups can be compared by them."""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffexp.reports.groups import seeds_of
from diffexp.runs.reader import RunReader, full_name, without_steps
from diffexp.statistics.estimates import Estimates, over_replicates
from diffexp.statistics.influence import Influence
from diffexp.statistics.scores import ScoredBlock, estimate_scores

# How the names of logged metrics start of which higher values are better.
_HIGHER = ("precision", "recall")


@dataclass(frozen=True)
class Measure:
    """One quantity of k groups of runs that differ only in seeds.

    Attributes:
        name: its name, such as fd_digits_v1_500.
        label: its name with what it was measured on, such as the sampler.
        lower_is_better: the direction.
        steps: for each group, the training step at which it was measured.
        values: for each group, the values by seed.
        replicates: what is counted by seed, for captions.
        blocks: for each group, functions that read the scored images behind the value of its first run; () if unknown.
    """

    name: str
    label: str
    lower_is_better: bool
    steps: tuple[int, ...]
    values: tuple[Mapping[Hashable, float], ...]
    replicates: str = "seeds"
    blocks: tuple[Callable[[], list[ScoredBlock]], ...] = ()

    @property
    def is_over_seeds(self) -> bool:
        """Whether a group has several seeds, whose spread gives the error; else the images of one run each do."""
        return max(map(len, self.values)) > 1

    def estimates(self) -> Estimates | None:
        """Return the estimates of the groups; None if their errors are unknown.

        Two groups with common seeds are compared by these alone: other seeds say nothing about a paired difference.
        """
        if self.is_over_seeds:
            values: Sequence[Mapping[Hashable, float]] = self.values
            common = set.intersection(*map(set, values))
            if len(values) == 2 and len(common) > 1:
                values = [{seed: value for seed, value in each.items() if seed in common} for each in values]
            return over_replicates(values, self.replicates)
        return estimate_scores([read() for read in self.blocks]) if self.blocks else None

    def images(self) -> int | None:
        """Return the number of scored images of the first group's first run; None if unknown."""
        images = [block.images for block in self.blocks[0]()] if self.blocks else []
        return sum(each[2] for each in images if each is not None) or None


class _Key(NamedTuple):
    name: str
    label: str
    protocol: str


class _Reading(NamedTuple):
    value: float
    blocks: Callable[[], list[ScoredBlock]] | None = None


_Readings = Mapping[int, _Reading]  # by step


def measures(sides: Sequence[Sequence[RunReader]]) -> list[Measure]:
    """Return the scores, then the losses on held-out images, that all groups have under one protocol.

    They are those of the last step that all groups have, else of the last step of each. A step of a group is one that
    most of its runs have, so that a run that has crashed does not count.

    Groups of evaluations, each of another sampler, have no score of one sampler in common. Their only ones are
    compared.

    Args:
        sides: for each group, its runs.
    """
    readings = [[_scores(run) | _losses(run) for run in runs] for runs in sides]
    found = _common(sides, readings)
    if found:
        return found
    of_samplers = _common(sides, [[_without_samplers(each) for each in runs] for runs in readings])
    return [replace(each, replicates="image seeds") for each in of_samplers]


def _common(
    sides: Sequence[Sequence[RunReader]], readings: Sequence[Sequence[Mapping[_Key, _Readings]]]
) -> list[Measure]:
    """Return the measures that all groups have."""
    found = []
    for key in dict.fromkeys(key for each in readings[0] for key in each):
        series = [[each[key] for each in runs if key in each] for runs in readings]
        members = [
            [run for run, each in zip(*side, strict=True) if key in each] for side in zip(sides, readings, strict=True)
        ]
        if all(series):
            found.append(_measure(key, members, series))
    return found


def _without_samplers(readings: Mapping[_Key, _Readings]) -> dict[_Key, _Readings]:
    """Return the readings of the metrics that a run has for one sampler only, without its name."""
    counts = Counter((key.name, key.protocol) for key in readings)
    return {
        _Key(key.name, key.name, key.protocol): each
        for key, each in readings.items()
        if counts[key.name, key.protocol] == 1
    }


def find_measure(
    found: Sequence[Measure], sides: Sequence[Sequence[RunReader]], name: str, *, lower_is_better: bool | None = None
) -> Measure | None:
    """Return the measure of this name or label, or the logged metric of this name; None if there is none.

    Without several seeds, a logged score has no error. The score itself then replaces it, of the same sampler if the
    metric names one: fd_digits_v1_500 for score/fd_digits_v1_500_best. The same holds for val/bits_per_dim.

    Args:
        found: the measures of the groups.
        sides: for each group, its runs.
        name: the name, such as fd_digits_v1_500 or train/loss.
        lower_is_better: the direction of a logged metric; None for that of its name.
    """
    for measure in found:
        if name in (measure.name, measure.label):
            return measure
    logged = logged_measure(sides, name, lower_is_better=lower_is_better)
    if logged is not None and logged.is_over_seeds:
        return logged
    *above, last = name.removesuffix("_best").split("/")
    if above == ["val"]:
        return next((measure for measure in found if measure.name == last), logged)
    sampler = f" of {without_steps(above[1].rpartition('-')[0])} " if len(above) == 2 else ""
    scores = (measure for measure in found if above[:1] == ["score"] and measure.name == last)
    return next((measure for measure in scores if sampler in measure.label), logged)


def logged_measure(
    sides: Sequence[Sequence[RunReader]], name: str, *, lower_is_better: bool | None = None
) -> Measure | None:
    """Return a metric of metrics.jsonl as a measure; None unless a run of each group has logged it.

    Args:
        sides: for each group, its runs.
        name: the name of the metric.
        lower_is_better: the direction; None for that of the metric, which is lower unless its name says otherwise.
    """
    logged = [[(run, _logged(run, name)) for run in runs] for runs in sides]
    found = [[(run, series) for run, series in each if series] for each in logged]
    if not all(found):
        return None
    members = [[run for run, _ in each] for each in found]
    series = [[values for _, values in each] for each in found]
    measure = _measure(_Key(name, name, ""), members, series)
    return measure if lower_is_better is None else replace(measure, lower_is_better=lower_is_better)


def _logged(run: RunReader, name: str) -> _Readings:
    """Return the finite values of a metric in metrics.jsonl, by step."""
    return {step: _Reading(value) for step, value in run.series(name) if math.isfinite(value)}


def _measure(key: _Key, sides: Sequence[Sequence[RunReader]], series: Sequence[Sequence[_Readings]]) -> Measure:
    steps, seeds = _steps(series), seeds_of(sides)
    at = [
        {seed: each[step] for seed, each in zip(*side, strict=True) if step in each}
        for step, *side in zip(steps, seeds, series, strict=True)
    ]
    blocks = [next(iter(each.values())).blocks for each in at]
    return Measure(
        key.name,
        key.label,
        not key.name.rpartition("/")[2].startswith(_HIGHER),
        steps,
        tuple({seed: reading.value for seed, reading in each.items()} for each in at),
        blocks=tuple(each for each in blocks if each is not None),
    )


def _steps(series: Sequence[Sequence[_Readings]]) -> tuple[int, ...]:
    """Return the last common step of all groups, else the last of each, of the steps that most of its runs have."""
    candidates = []
    for side in series:
        counts = {step: sum(step in each for each in side) for each in side for step in each}
        candidates.append({step for step, count in counts.items() if count == max(counts.values())})
    common = set.intersection(*candidates)
    return tuple(max(common or each) for each in candidates)


def _scores(run: RunReader) -> dict[_Key, dict[int, _Reading]]:
    found: dict[_Key, dict[int, _Reading]] = {}
    for score in sorted(run.scores, key=lambda score: score.blocks):  # at one step, that of most blocks counts
        raw = "" if score.weights == "ema" else f", {score.weights} weights"
        finite = {name: value for name, value in {"fd": score.value, **score.others}.items() if math.isfinite(value)}
        for metric, value in finite.items():
            name = full_name(metric, score.metric)
            label = f"{name} of {score.sampler} ({score.network_calls} calls{raw})"
            reading = _Reading(value, partial(score.scored, metric))
            found.setdefault(_Key(name, label, score.protocol), {})[score.step] = reading
    return found


def _losses(run: RunReader) -> dict[_Key, dict[int, _Reading]]:
    found: dict[_Key, dict[int, _Reading]] = {}
    for each in run.validations:
        key = _Key("bits_per_dim", f"held-out bits/dim ({each.weights} weights)", each.protocol)
        bits = each.bits_per_dim[each.weights].astype(np.float64)
        if not np.isfinite(bits).all():
            continue  # a model that diverged, or gives an image no probability, has no loss to compare
        found.setdefault(key, {})[each.step] = _Reading(float(bits.mean()), partial(_of_images, bits))
    return found


def _of_images(values: NDArray[np.float64]) -> list[ScoredBlock]:
    """Return the mean of values (images,) as a block; one protocol has the same images in each run."""
    count = len(values)
    if count < 2:
        return [ScoredBlock((0, 0, count), float(values.mean()))]
    influence = Influence.linear(values, count)
    return [ScoredBlock((0, 0, count), float(values.mean()), influence.error, influence)]
