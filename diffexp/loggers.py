"""Where metrics go: metrics.jsonl, which is the truth, and the loggers of the config, which mirror it."""

import json
import logging
import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import wandb
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from diffexp.config.words import Wandb
from diffexp.files import write_text
from diffexp.hardware import is_main_process
from diffexp.runs import Run, read_metrics

log = logging.getLogger(__name__)

_PATIENCE = 30.0  # seconds that W&B's server has to answer when a run starts


class MetricsFile(Logger):
    """Appends one JSON object a line: ``{"step": 50, "train/loss": 0.1, …}``.

    Args:
        path: the file.
        resume_step: lines of later steps are dropped first: the run that wrote them did not keep those steps.
    """

    def __init__(self, path: Path, resume_step: int = 0) -> None:
        super().__init__()
        self.path = path
        self.kept = [row for row in read_metrics(path) if row["step"] <= resume_step]
        write_text(path, "".join(json.dumps(row) + "\n" for row in self.kept))

    @property
    def name(self) -> str:
        """The kind of the logger."""
        return "metrics"

    @property
    def version(self) -> str:
        """There is one file a run."""
        return ""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a line."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **{name: float(value) for name, value in metrics.items()}}) + "\n")

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the config is in config.yaml."""


def build_loggers(
    names: Sequence[str], run: Run, resume_step: int, settings: Wandb, config: dict[str, Any]
) -> list[Logger]:
    """metrics.jsonl and the chosen loggers, continued after `resume_step`; on the main process only.

    Args:
        names: of the loggers: "csv", "tensorboard", "wandb".
        run: its directory, which has been described.
        resume_step: the step that the run goes on from.
        settings: where it appears in W&B.
        config: for W&B.
    """
    if not is_main_process():
        return []
    truth = MetricsFile(run.metrics, resume_step)
    loggers: list[Logger] = [truth]
    for name in names:
        if name == "csv":
            csv = CSVLogger(run.path, name="", version="", flush_logs_every_n_steps=1)
            for row in truth.kept:  # a CSVLogger starts its file anew
                csv.log_metrics({key: value for key, value in row.items() if key != "step"}, row["step"])
            loggers.append(csv)
        elif name == "tensorboard":
            loggers.append(TensorBoardLogger(run.path, name="", version="tensorboard", purge_step=resume_step + 1))
        elif name == "wandb":
            loggers.append(_run_in_wandb(run, settings, config))
    return loggers


def finish(loggers: list[Logger], stopped_by: int | None = None) -> None:
    """End the W&B run, which Lightning never does: its last records would still be unwritten.

    Args:
        loggers: of the run.
        stopped_by: the signal that ended it early. W&B's server gives a trial of its sweeps that was ended so to
            another agent.
    """
    if not any(isinstance(logger, WandbLogger) for logger in loggers):
        return
    try:
        if stopped_by is not None and _in_sweep() and wandb.run is not None:
            wandb.run.mark_preempting()
        wandb.finish(exit_code=0 if stopped_by is None else 128 + stopped_by)
    except (ConnectionError, wandb.Error) as error:  # a signal to the whole job has ended its process before
        log.warning("W&B's process has ended; what it had recorded is in the run's wandb/ folder: %s", error)


def _in_sweep() -> bool:
    """Whether W&B's agent has started this process."""
    return "WANDB_SWEEP_ID" in os.environ


def _run_in_wandb(run: Run, settings: Wandb, config: dict[str, Any]) -> WandbLogger:
    return connect_wandb(
        settings,
        run.path,
        name=settings.name or run.path.name,
        id=run.read_environment()["run_id"],  # the same after a resume
        group=settings.group,
        job_type=settings.job_type,
        config=config,  # at init: in a W&B sweep, what is logged later loses the swept subtrees
    )


def connect_wandb(settings: Wandb, folder: Path, **about: Any) -> WandbLogger:
    """W&B's logger, offline when nobody is logged in or the server does not answer; WANDB_MODE decides if set.

    Args:
        settings: where the run appears.
        folder: where it is kept; offline runs lie in its wandb/.
        about: what `wandb.init` is told of the run: name, id, group, job_type, config.
    """
    # of a process that started this one: it outlives a killed run, whose id nobody could use again
    os.environ.pop("WANDB_SERVICE", None)
    if "WANDB_MODE" in os.environ:
        return _wandb_logger(settings, folder, None, about)
    if not wandb.login(prompt=False, verify=False):
        return _wandb_logger(settings, folder, "offline", about)
    logger = _wandb_logger(settings, folder, "online", about)
    try:
        _ = logger.experiment  # connects
    except wandb.Error as error:
        log.warning("W&B cannot be reached, so it is recorded offline in %s/wandb: %s", folder, error)
        wandb.teardown()  # its service process still holds the run's id
        return _wandb_logger(settings, folder, "offline", about)
    return logger


def _wandb_logger(
    settings: Wandb, folder: Path, mode: Literal["online", "offline"] | None, about: dict[str, Any]
) -> WandbLogger:
    logger = WandbLogger(
        save_dir=folder,
        resume="allow",
        project=settings.project,
        entity=settings.entity,
        tags=settings.tags or None,
        mode=mode,
        settings=wandb.Settings(silent=mode == "offline", init_timeout=_PATIENCE),
        log_model=False,
        **about,
    )
    # Lightning always passes these, and W&B warns of them: of the first always, of the others in its sweeps, where the
    # agent has said where the run belongs
    for key in ("anonymous", *(("project", "entity", "id") if _in_sweep() else ())):
        logger._wandb_init.pop(key, None)
    return logger
