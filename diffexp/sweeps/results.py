"""The results of a sweep: its trials, grouped by setting. The seeds of a setting are its replicates."""

import json
import math
from collections.abc import Hashable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from diffexp.config.trial import is_seed, leaves, trial_name
from diffexp.statistics.power import mean_interval
from diffexp.sweeps.plan import PlannedTrial, Sweep
from diffexp.sweeps.state import TrialState, history, read_state


@dataclass(frozen=True)
class Row:
    """A trial and its result.

    Attributes:
        value: the last value of the sweep's metric; None before it is logged, and for a failed trial, whose earlier
            values are not a result.
    """

    index: int
    name: str
    parameters: dict[str, Any]
    record: TrialState
    value: float | None

    @property
    def seeds(self) -> tuple[tuple[str, Any], ...]:
        """The keys and values of its seeds, which identify a replicate of its setting."""
        return tuple((key, value) for key, value in self.parameters.items() if is_seed(key))


@dataclass(frozen=True)
class Setting:
    """Trials that differ only in seeds: one setting with several replicates of its result.

    Attributes:
        name: the name of its trials without their seeds.
        parameters: its swept keys without the seeds, and their values.
        rows: its trials in order of their index.
    """

    name: str
    parameters: dict[str, Any]
    rows: list[Row]

    @property
    def by_seed(self) -> dict[Hashable, float]:
        """The values of the trials that have one, by the values of their seeds; a repeated trial counts once."""
        return {row.seeds: row.value for row in self.rows if row.value is not None}

    @property
    def values(self) -> list[float]:
        """The values by seed, without the seeds."""
        return list(self.by_seed.values())

    @property
    def seeds(self) -> int:
        """The number of different seeds, with and without a value."""
        return len({row.seeds for row in self.rows})

    @property
    def mean(self) -> float | None:
        """The mean over the seeds that have a value; None if none has."""
        return fmean(self.values) if self.values else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean (Student's t over the seeds); None with fewer than two values."""
        if len(self.values) < 2:
            return None
        mean, half = mean_interval(self.values)
        assert half is not None
        return mean - half, mean + half

    @property
    def is_complete(self) -> bool:
        """Whether every trial has a value; the mean over some of the seeds may be over the lucky ones."""
        return all(row.value is not None for row in self.rows)

    def summary(self) -> str:
        """Format the mean: ``0.94``, ``0.94 (0.85 to 1.03), 5 seeds`` (95 % interval) or ``0.94, 1 of 3 seeds``."""
        if not self.values:
            return ""
        around = "" if self.interval is None else f" ({interval_text(self.interval)})"
        some = "" if self.is_complete else f"{len(self.values)} of "
        seeds = f", {some}{self.seeds} seeds" if self.seeds > 1 else ""
        return f"{self.mean:.4g}{around}{seeds}"


def interval_text(interval: tuple[float, float]) -> str:
    """Format an interval: ``0.85 to 1.03``."""
    return f"{interval[0]:.4g} to {interval[1]:.4g}"


def settings(sweep: Sweep) -> list[Setting]:
    """Return the settings, best mean first; incomplete settings come after complete ones."""
    found: dict[str, Setting] = {}
    for row in _known(sweep):
        parameters = {key: value for key, value in row.parameters.items() if not is_seed(key)}
        setting = found.setdefault(json.dumps(parameters, sort_keys=True), Setting(_name(parameters), parameters, []))
        setting.rows.append(row)
    metric = sweep.file.metric
    if metric is None:
        return list(found.values())

    def rank(setting: Setting) -> tuple[bool, float]:
        return not setting.is_complete, math.inf if setting.mean is None else metric.better(setting.mean)

    return sorted(found.values(), key=rank)


def rows(sweep: Sweep) -> list[Row]:
    """Return all known trials, grouped by setting, best setting first."""
    return [row for setting in settings(sweep) for row in setting.rows]


def _known(sweep: Sweep) -> list[Row]:
    found = []
    for planned in sweep.trials():
        trial = planned.trial
        if trial is None:
            continue
        parameters = {".".join(path): value for path, value in leaves(trial.parameters)}
        record = read_state(planned)
        value = None if record.state == "failed" else _value(sweep, planned)
        found.append(Row(planned.index, trial.name, parameters, record, value))
    return found


def _name(parameters: dict[str, Any]) -> str:
    nested: dict[str, Any] = {}
    for key, value in parameters.items():
        node = nested
        *above, last = key.split(".")
        for part in above:
            node = node.setdefault(part, {})
        node[last] = value
    return trial_name(nested)


def _value(sweep: Sweep, planned: PlannedTrial) -> float | None:
    metric = sweep.file.metric
    values = history(planned, metric) if metric is not None else []
    return values[-1] if values and math.isfinite(values[-1]) else None


def best_value(sweep: Sweep) -> float | None:
    """Return the best value of any single trial so far, which W&B compares with metric.target."""
    metric = sweep.file.metric
    values = [row.value for row in _known(sweep) if row.value is not None]
    return None if metric is None or not values else min(values, key=metric.better)


def is_target_reached(sweep: Sweep) -> bool:
    """Whether a trial has reached metric.target, after which W&B starts no further trials."""
    metric, best = sweep.file.metric, best_value(sweep)
    if metric is None or metric.target is None or best is None:
        return False
    return metric.better(best) <= metric.better(metric.target)


def best_setting(sweep: Sweep) -> Setting | None:
    """Return the setting with the best mean so far; None if trials differ only in seeds or none has a value."""
    found = settings(sweep)
    if sweep.file.metric is None or not found or found[0].mean is None:
        return None
    return found[0] if len(found) > 1 or len(found[0].rows) == 1 else None


def told_value(row: Row) -> str:
    """Format a row's value as ``", 0.536"``, or an empty string."""
    return "" if row.value is None else f", {row.value:.4g}"
