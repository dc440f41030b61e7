"""What a sweep has found: a row a trial, sorted by the metric, and the best trial's config."""

import csv
import io
import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from diffexp.config import load_experiment
from diffexp.config.trials import leaves, short_labels
from diffexp.errors import UserError
from diffexp.runs import config_text
from diffexp.sweeps.plan import Sweep
from diffexp.sweeps.records import Record, history, read_record


@dataclass(frozen=True)
class Row:
    """A trial.

    Attributes:
        value: the last one of the sweep's metric; None before it is logged.
    """

    index: int
    name: str
    parameters: dict[str, Any]
    record: Record
    value: float | None


def rows(sweep: Sweep) -> list[Row]:
    """All trials that are known, best first; those without a value last."""
    found = []
    for index in sweep.indices:
        trial = sweep.trial(index)
        if trial is None:
            continue
        parameters = {".".join(path): value for path, value in leaves(trial.parameters)}
        found.append(Row(index, trial.name, parameters, read_record(sweep, index), _value(sweep, index)))
    metric = sweep.file.metric
    if metric is None:
        return found
    return sorted(found, key=lambda row: math.inf if row.value is None else metric.better(row.value))


def _value(sweep: Sweep, index: int) -> float | None:
    metric = sweep.file.metric
    values = history(sweep, index, metric.name) if metric is not None else []
    return values[-1] if values and math.isfinite(values[-1]) else None


def best_row(sweep: Sweep) -> Row | None:
    """The trial with the best value so far."""
    found = rows(sweep)
    return found[0] if sweep.file.metric is not None and found and found[0].value is not None else None


def best_config(sweep: Sweep) -> str:
    """The best trial's config, a file for the command that its trials run.

    Raises:
        UserError: if there is none yet.
    """
    metric, best = sweep.file.metric, best_row(sweep)
    if metric is None:
        raise UserError(f"{sweep.path}: the sweep file has no metric to be best by")
    if best is None:
        raise UserError(f"{sweep.path}: no trial has logged {metric.name} yet")
    command = sweep.file.command
    head = f"# trial {best.index} of {sweep.path}, {best.name}: {metric.name} = {best.value:.6g}\n"
    use = (
        "diffexp train THIS_FILE" if command.kind == "train" else f"diffexp evaluate {command.target} --table THIS_FILE"
    )
    return f"{head}# use it with: {use}\n{_config_that_ran(sweep, best.index)}"


def _config_that_ran(sweep: Sweep, index: int) -> str:
    """The config in the trial's run directory, no longer that of a trial: without a comment, and with other names."""
    if sweep.file.command.kind == "train":
        names = [f"name={sweep.file.name}-best", "runs_dir=runs", "wandb.name=null", "wandb.group=null"]
        return config_text(
            load_experiment(str(sweep.run(index).config), [*names, "wandb.job_type=null", "wandb.tags=[]"])
        )
    lines = sweep.run(index).config.read_text().splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("#"))


def told_value(row: Row) -> str:
    """``", 0.536"``, or nothing."""
    return "" if row.value is None else f", {row.value:.4g}"


def as_records(sweep: Sweep) -> list[dict[str, Any]]:
    """One flat record a trial, for CSV and JSON."""
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
            "run": str(sweep.run(row.index).path),
        }
        for row in rows(sweep)
    ]


def as_csv(sweep: Sweep) -> str:
    """The records as CSV."""
    records = as_records(sweep)
    if not records:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for record in records for key in record)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def as_json(sweep: Sweep) -> str:
    """The records as JSON."""
    return json.dumps(as_records(sweep), indent=1) + "\n"


def as_table(sweep: Sweep) -> str:
    """The records as a Markdown table: what was swept, what came out, and what it took."""
    metric, found = sweep.file.metric, rows(sweep)
    keys = list(dict.fromkeys(key for row in found for key in row.parameters))
    labels = short_labels([tuple(key.split(".")) for key in keys])
    head = ["", *labels, *([metric.name] if metric is not None else []), "state", "step", "seconds"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in found:
        values = [_shown(row.parameters.get(key)) for key in keys]
        value = [] if metric is None else ["" if row.value is None else f"{row.value:.4g}"]
        cells = [str(row.index), *values, *value, row.record.state, str(row.record.step), f"{row.record.seconds:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def status_text(sweep: Sweep, gone: Collection[int] = ()) -> str:
    """How a sweep stands: how many trials in which state, and a line for each that is not done or waiting.

    Args:
        sweep: the sweep.
        gone: trials that are on record as running, but are not.
    """
    found = sorted(rows(sweep), key=lambda row: row.index)
    for row in found:
        if row.index in gone:
            row.record.state = "lost"
    counts: dict[str, int] = {}
    for row in found:
        counts[row.record.state] = counts.get(row.record.state, 0) + 1
    unasked = len(sweep) - len(found)
    lines = [
        f"{sweep.file.name}: {len(sweep)} trials: "
        + ", ".join(
            [*(f"{count} {state}" for state, count in counts.items()), *([f"{unasked} not chosen"] * (unasked > 0))]
        )
    ]
    for row in found:
        record = row.record
        if record.state in ("running", "interrupted", "lost", "failed", "cancelled"):
            where = f" on {record.host}" if record.state == "running" else ""
            where += f" (Slurm job {record.job})" if record.job and record.state == "running" else ""
            log = f"; see {sweep.log(row.index)}" if record.state in ("failed", "lost") else ""
            tries = f", {record.tries} tries" if record.tries > 1 else ""
            step = f"step {record.step} of {record.steps or '?'}"
            lines.append(f"  {row.index:04d} {row.name}: {record.state}{where}, {step}{tries}{log}")
    best = best_row(sweep)
    if best is not None and sweep.file.metric is not None:
        lines.append(f"best {sweep.file.metric.name}: {best.value:.4g} ({best.index:04d} {best.name})")
    return "\n".join(lines)
