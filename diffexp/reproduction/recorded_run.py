"""What is known of a run that is to be made again."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from diffexp.checkpoints.file import latest_valid_checkpoint, read_checkpoint
from diffexp.checkpoints.paths import step_of
from diffexp.errors import EnvironmentFailure, UserError
from diffexp.loggers.wandb import STEP_IN_WANDB
from diffexp.runs.directory import Run
from diffexp.runs.metrics import read_metrics, with_current_metric_names

_WANDB = re.compile(r"(?:https?://[^/]+/)?([\w.-]+)/([\w.-]+)/(?:runs/)?([\w-]+)/?(?:\?.*)?")
_ALL = 10_000_000  # rows: more than a run logs, so that none is left out


@dataclass(frozen=True)
class RecordedRun:
    """A run as it was.

    Attributes:
        source: where it was found.
        config: its text, as it lies there.
        trained: the config inside its checkpoint, which it was trained with; None without one.
        environment: what it ran on, {} if that is unknown.
        step: that it reached.
        checkpoint: what the checkpoint at that step holds; None if there is none.
        metrics: the rows logged, up to that step.
        run: its directory, if it is here.
    """

    source: str
    config: str
    trained: str | None
    environment: dict[str, Any]
    step: int
    checkpoint: dict[str, Any] | None
    metrics: list[dict[str, Any]]
    run: Run | None


def find_recorded_run(name: str) -> RecordedRun:
    """The recording of a run's directory, a checkpoint, or ENTITY/PROJECT/ID of W&B (or its address).

    Raises:
        UserError: if it is none of these, or there is nothing to compare with.
        EnvironmentFailure: if W&B does not give it.
    """
    path = Path(name)
    if path.is_dir():
        return _of_run(path)
    if path.is_file():
        return _of_checkpoint(path)
    found = _WANDB.fullmatch(name)
    if found is None:
        raise UserError(f"{name}: no such run directory or checkpoint, nor ENTITY/PROJECT/ID of a W&B run")
    return _of_wandb("/".join(found.groups()))


def _of_run(path: Path) -> RecordedRun:
    run = Run(path)
    if not run.exists():
        raise UserError(f"{path}: holds no run (no config.yaml)")
    newest = latest_valid_checkpoint(run.checkpoints)
    if newest is None:
        raise UserError(f"{path}: has no checkpoint to compare with; diffexp train {path} makes another run of it")
    return _with_run(run, str(path), run.config.read_text(), *newest)


def _of_checkpoint(path: Path) -> RecordedRun:
    content = read_checkpoint(path)
    run = Run(path.absolute().parent.parent)
    if path.parent.name == "checkpoints" and run.exists() and re.fullmatch(r"step-\d+\.ckpt", path.name):
        return _with_run(run, str(path), content["config"], path, content)
    return RecordedRun(str(path), content["config"], content["config"], {}, content["global_step"], content, [], None)


def _with_run(run: Run, source: str, config: str, file: Path, content: dict[str, Any]) -> RecordedRun:
    step = step_of(file)
    rows = [row for row in read_metrics(run.metrics) if row["step"] <= step]
    return RecordedRun(source, config, content["config"], run.read_environment(), step, content, rows, run)


def _of_wandb(name: str) -> RecordedRun:
    import wandb

    try:
        run = wandb.Api().run(name)
        config = {key: value for key, value in run.config.items() if key not in ("_wandb", "score_protocol")}
        history = run.history(samples=_ALL, pandas=False)
    except Exception as error:  # of its client, the network, the server
        raise EnvironmentFailure(f"{name}: W&B does not give it: {error}") from error
    if "model" not in config or "training" not in config:
        raise UserError(f"{name}: its config is not that of a training by diffexp")
    rows = [
        {"step": row[STEP_IN_WANDB], **{key: each for key, each in row.items() if _is_metric(key, each)}}
        for row in history
        if STEP_IN_WANDB in row
    ]
    rows = [with_current_metric_names(row) for row in rows if len(row) > 1]
    if not rows:
        raise UserError(f"{name}: has logged nothing to compare with")
    step = max(row["step"] for row in rows)
    return RecordedRun(name, yaml.safe_dump(config, sort_keys=False), None, {}, step, None, rows, None)


def _is_metric(key: str, value: Any) -> bool:
    return not key.startswith("_") and key != STEP_IN_WANDB and isinstance(value, (int, float))
