"""Group runs by setting: the runs of a group differ only in seeds, which are the replicates of their setting."""

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from diffexp.config.trial import is_seed, leaves
from diffexp.runs.reader import RunReader
from diffexp.statistics.power import mean_interval

# Keys of the name and the recording of a run, which do not change the result.
_NAMING = ("name", "runs_dir", "run_dir", "wandb.", "loggers")

ABSENT = "–"

# In the name of a trial: its number, and each of its seeds.
_INDEX, _SEED = re.compile(r"^\d{4,}-"), re.compile(r"(^|,)([\w.]+\.)?seed=\d+")

T = TypeVar("T")


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ only in seeds.

    Attributes:
        label: their common name in reports.
        indices: the positions of the runs among all that are reported.
        seeds: of each of these runs, what identifies its seeds among all runs.
    """

    label: str
    indices: tuple[int, ...]
    seeds: tuple[Hashable, ...]


def differing_keys(runs: Sequence[RunReader]) -> dict[str, list[str]]:
    """Return the keys that have several values: by dotted key, the value in each run, "–" where absent."""
    flat = [_flat(run.config) for run in runs]
    if len({frozenset(each) for each in flat}) > 1:  # fill in defaults of keys that a run's version lacked
        flat = [_flat(run.completed) for run in runs]
    keys = dict.fromkeys(key for each in flat for key in each if not key.startswith(_NAMING))
    found = {key: [each.get(key, ABSENT) for each in flat] for key in keys}
    return {key: values for key, values in found.items() if len(set(values)) > 1}


def differing_settings(runs: Sequence[RunReader]) -> dict[str, list[str]]:
    """Return the differing keys that are not seeds."""
    return {key: values for key, values in differing_keys(runs).items() if not is_seed(key)}


def grouped(runs: Sequence[RunReader]) -> list[RunGroup]:
    """Return the groups in order of their first runs.

    Runs with the same seeds are no replicates: the second of them begins another group, so that a run and its
    repetition are compared.
    """
    differing = differing_keys(runs)
    settings = [values for key, values in differing.items() if not is_seed(key)]
    seeds = [values for key, values in differing.items() if is_seed(key)]
    found: dict[Hashable, dict[Hashable, int]] = {}
    for index in range(len(runs)):
        setting, seed = tuple(values[index] for values in settings), tuple(values[index] for values in seeds)
        number = 0
        while seed in found.setdefault((setting, number), {}):
            number += 1
        found[setting, number][seed] = index
    members = [tuple(by_seed.values()) for by_seed in found.values()]
    labels = [_label([runs[index].label for index in each]) for each in members]
    if len(set(labels)) < len(labels):
        labels = [_first_to_last([runs[index].label for index in each]) for each in members]
    return [
        RunGroup(label, each, tuple(by_seed))
        for label, each, by_seed in zip(labels, members, found.values(), strict=True)
    ]


def seeds_of(sides: Sequence[Sequence[RunReader]]) -> list[list[Hashable]]:
    """Return what identifies the seed of each run of several groups, so that the groups can be paired.

    This is the training's seed, unless the runs of a group share it and differ in other seeds.
    """
    plain: list[list[Hashable]] = [[run.config.get("seed") for run in runs] for runs in sides]
    if all(len(set(each)) == len(each) for each in plain):
        return plain
    return [
        [
            tuple((".".join(path), shown(value)) for path, value in leaves(run.config) if is_seed(path[-1]))
            for run in runs
        ]
        for runs in sides
    ]


def _label(labels: Sequence[str]) -> str:
    """Return the name of the trials without number and seeds, else the first and the last label."""
    common = {_SEED.sub("", _INDEX.sub("", label)).lstrip(",") for label in labels}
    only = common.pop()
    return only if len(labels) > 1 and not common and only else _first_to_last(labels)


def _first_to_last(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{labels[0]} … {labels[-1]}"


def at_common_step(series: Sequence[Mapping[int, T]]) -> tuple[int, list[T | None]]:
    """Return the step that most of several runs recorded, the last of these, and what each recorded at it.

    Args:
        series: the recorded values of each run by step; at least one of them is not empty.
    """
    steps = {step for each in series for step in each}
    step = max(steps, key=lambda step: (sum(step in each for each in series), step))
    return step, [each.get(step) for each in series]


def mean_text(values: Sequence[float]) -> str:
    """Format a mean with its 95 % interval (Student's t): ``0.94 (0.85 to 1.03)``, or ``0.94`` for one value."""
    mean, half = mean_interval(values)
    return f"{mean:.4g}" if half is None else f"{mean:.4g} ({mean - half:.4g} to {mean + half:.4g})"


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
