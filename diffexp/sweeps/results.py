"""The results of a sweep: one row per trial, sorted by the mean of its setting, and the best setting's config."""

import csv
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml

from diffexp.config.load import load_experiment
from diffexp.config.renamed import with_current_names
from diffexp.config.sources import parse_yaml
from diffexp.config.trial import is_seed, leaves, short_labels, trial_name
from diffexp.errors import UserError
from diffexp.formatting import markdown_table
from diffexp.runs.directory import config_text
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


@dataclass(frozen=True)
class Setting:
    """Trials that differ only in seeds: one setting with several samples of its result.

    Attributes:
        name: the name of its trials without their seeds.
        rows: its trials in order of their index.
    """

    name: str
    rows: list[Row]

    @property
    def values(self) -> list[float]:
        """The values of the trials that have one."""
        return [row.value for row in self.rows if row.value is not None]

    @property
    def mean(self) -> float | None:
        """The mean over the trials that have a value; None if none has."""
        return fmean(self.values) if self.values else None

    @property
    def is_complete(self) -> bool:
        """Whether every trial has a value; the mean over some of the seeds may be over the lucky ones."""
        return len(self.values) == len(self.rows)

    def summary(self) -> str:
        """Format the mean: ``0.94``, ``0.94 ± 0.09, 5 seeds`` (standard deviation) or ``0.94, 1 of 3 seeds``."""
        if not self.values:
            return ""
        spread = f" ± {stdev(self.values):.2g}" if len(self.values) > 1 else ""
        some = "" if self.is_complete else f"{len(self.values)} of "
        seeds = f", {some}{len(self.rows)} seeds" if len(self.rows) > 1 else ""
        return f"{self.mean:.4g}{spread}{seeds}"


def settings(sweep: Sweep) -> list[Setting]:
    """Return the settings, best mean first; incomplete settings come after complete ones."""
    found: dict[str, Setting] = {}
    for row in _known(sweep):
        parameters = {key: value for key, value in row.parameters.items() if not is_seed(key)}
        setting = found.setdefault(json.dumps(parameters, sort_keys=True), Setting(_name(parameters), []))
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


def best_config(sweep: Sweep) -> str:
    """Return the best setting's config as a file for the command that its trials run.

    The best setting has the best mean over its seeds. The config is that of its first seed with a value, because the
    result of the luckiest seed would be biased.

    Raises:
        UserError: if there is none yet, or the trials differ only in seeds.
    """
    metric, best = sweep.file.metric, best_setting(sweep)
    if metric is None:
        raise UserError(f"{sweep.path}: metric: expected one to choose the best setting by, got none.")
    if best is None and any(setting.values for setting in settings(sweep)):
        (only,) = settings(sweep)
        raise UserError(
            f"{sweep.path}: expected settings to choose from, got trials that differ only in seeds "
            f"({metric.name}: {only.summary()}). Use any of their configs."
        )
    if best is None:
        raise UserError(f"{sweep.path}: expected a trial that has logged {metric.name}, got none yet. Run the sweep.")
    command = sweep.file.command
    row = next(row for row in best.rows if row.value is not None)
    head = f"# trial {row.index} of {sweep.path}, {row.name}: {metric.name} = {row.value:.6g}\n"
    if len(best.rows) > 1:
        head += f"# the setting with the best mean over its seeds ({best.summary()}), at its first seed\n"
    use = (
        "diffexp train THIS_FILE" if command.kind == "train" else f"diffexp evaluate {command.target} --table THIS_FILE"
    )
    return f"{head}# use it with: {use}\n{_config_that_ran(sweep, row.index)}"


def _config_that_ran(sweep: Sweep, index: int) -> str:
    """Return the config in the trial's run directory as one of an independent run: no comment, and other names."""
    run = sweep.trial(index).run
    assert run is not None
    if sweep.file.command.kind == "train":
        names = [f"name={sweep.file.name}-best", "runs_dir=runs", "wandb.name=null", "wandb.group=null"]
        return config_text(load_experiment(str(run.config), [*names, "wandb.job_type=null", "wandb.tags=[]"]))
    values, _ = parse_yaml(run.config.read_text(), str(run.config))
    return yaml.safe_dump(with_current_names(values), sort_keys=False, allow_unicode=True)


def told_value(row: Row) -> str:
    """Format a row's value as ``", 0.536"``, or an empty string."""
    return "" if row.value is None else f", {row.value:.4g}"


def _path(sweep: Sweep, index: int) -> Path | None:
    run = sweep.trial(index).run
    return None if run is None else run.path


def as_records(sweep: Sweep) -> list[dict[str, Any]]:
    """Return one flat record per trial, for CSV and JSON."""
    metric = sweep.file.metric
    return [
        {
            "index": row.index,
            "name": row.name,
            "state": row.record.state,
            **({metric.name: row.value} if metric is not None else {}),
            **row.parameters,
            "step": row.record.step,
            "seconds": round(row.record.seconds, 1),
            "tries": row.record.tries,
            "run": str(_path(sweep, row.index)),
        }
        for row in rows(sweep)
    ]


def as_csv(sweep: Sweep) -> str:
    """Format the records as CSV."""
    records = as_records(sweep)
    if not records:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for record in records for key in record)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def as_json(sweep: Sweep) -> str:
    """Format the records as JSON."""
    return json.dumps(as_records(sweep), indent=1) + "\n"


def as_table(sweep: Sweep) -> str:
    """Format the records as a Markdown table: swept parameters, metric, state, steps and seconds.

    With several seeds, one column contains each setting's mean over them.
    """
    metric, found = sweep.file.metric, rows(sweep)
    means = {each.rows[0].index: each.summary() for each in settings(sweep) if len(each.rows) > 1}
    keys = list(dict.fromkeys(key for row in found for key in row.parameters))
    labels = short_labels([tuple(key.split(".")) for key in keys])
    over_seeds = ["mean over seeds"] if metric is not None and means else []
    head = ["", *labels, *([metric.name] if metric is not None else []), *over_seeds, "state", "step", "seconds"]
    lines = []
    for row in found:
        values = [_shown(row.parameters.get(key)) for key in keys]
        value = [] if metric is None else ["" if row.value is None else f"{row.value:.4g}"]
        value += [means.get(row.index, "")] if over_seeds else []
        record = row.record
        lines.append([str(row.index), *values, *value, record.state, str(record.step), f"{record.seconds:.0f}"])
    return markdown_table(head, lines)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
