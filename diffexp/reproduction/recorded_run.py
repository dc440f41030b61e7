"""Read the record of a run to reproduce."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from diffexp.checkpoints.file import latest_valid_checkpoint, read_checkpoint
from diffexp.checkpoints.paths import step_of
from diffexp.errors import EnvironmentFailure, UserError
from diffexp.loggers.wandb import STEP_IN_WANDB
from diffexp.reproduction.recorded_name import check_recorded_run, wandb_path
from diffexp.runs.directory import Run
from diffexp.runs.metrics import read_metrics, with_current_metric_names

_ALL = 10_000_000  # rows: more than a run logs, so that W&B subsamples none


@dataclass(frozen=True)
class RecordedRun:
    """The record of a run.

    Attributes:
        source: where the record was found.
        config: the text of the config in the record.
        trained: the config inside the checkpoint, which the run was trained with; None without a checkpoint.
        environment: the versions and the machine; {} if unknown.
        step: the step that the run reached.
        checkpoint: the content of the checkpoint at that step; None without one.
        metrics: the rows logged up to that step.
        run: the run's directory; None without one.
        changes: the changes of the config during training, as environment.json records them.
    """

    source: str
    config: str
    trained: str | None
    environment: dict[str, Any]
    step: int
    checkpoint: dict[str, Any] | None
    metrics: list[dict[str, Any]]
    run: Run | None
    changes: list[dict[str, Any]] = field(default_factory=list)


def find_recorded_run(name: str) -> RecordedRun:
    """Read the record of a run directory, a checkpoint, or a W&B run.

    Args:
        name: a path, or ENTITY/PROJECT/ID or the URL of a W&B run.

    Raises:
        UserError: if `name` is none of these, or there is nothing to compare with.
        EnvironmentFailure: if the run cannot be read from W&B.
    """
    check_recorded_run(name)
    path = Path(name)
    if path.is_dir():
        return _of_run(path)
    if path.is_file():
        return _of_checkpoint(path)
    return _of_wandb(wandb_path(name))


def _of_run(path: Path) -> RecordedRun:
    run = Run(path)
    newest = latest_valid_checkpoint(run.checkpoints)
    assert newest is not None  # `check_recorded_run` found one
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
    environment = run.read_environment()
    return RecordedRun(source, config, content["config"], environment, step, content, rows, run, run.changes())


def _of_wandb(name: str) -> RecordedRun:
    import wandb

    try:
        run = wandb.Api().run(name)
        config = {key: value for key, value in run.config.items() if key not in ("_wandb", "score_protocol")}
        history = run.history(samples=_ALL, pandas=False)
    except Exception as error:  # of its client, the network, the server
        raise EnvironmentFailure(
            f"{name}: cannot be read from W&B: {error}. Check the name and the connection."
        ) from error
    if "model" not in config or "training" not in config:
        raise UserError(f"{name}: expected the config of a diffexp training, got another. Give another run.")
    rows = [
        {"step": row[STEP_IN_WANDB], **{key: each for key, each in row.items() if _is_metric(key, each)}}
        for row in history
        if STEP_IN_WANDB in row
    ]
    rows = [with_current_metric_names(row) for row in rows if len(row) > 1]
    if not rows:
        raise UserError(f"{name}: expected logged metrics to compare with, got none. Give another run.")
    step = max(row["step"] for row in rows)
    return RecordedRun(name, yaml.safe_dump(config, sort_keys=False), None, {}, step, None, rows, None)


def _is_metric(key: str, value: Any) -> bool:
    return not key.startswith("_") and key != STEP_IN_WANDB and isinstance(value, (int, float))
