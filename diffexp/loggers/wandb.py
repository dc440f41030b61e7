"""W&B, connected or offline."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import wandb
from lightning.pytorch import loggers as lightning
from PIL import Image

from diffexp.loggers.base import LoggedRun, RunLogger
from diffexp.system.best_effort import reason

log = logging.getLogger(__name__)

# Seconds that W&B's server has to answer when a run starts, and to take what is left when it ends.
_PATIENCE = 30.0

# What Lightning's logger calls the step in W&B.
STEP_IN_WANDB = "trainer/global_step"


class WandbLogger(RunLogger):
    """A run in W&B; WANDB_MODE decides how if set.

    It records offline, in the run's wandb/, when nobody is logged in or the server does not answer.
    """

    def __init__(self, run: LoggedRun) -> None:
        # of a process that started this one: it outlives a killed run, whose id nobody could use again
        os.environ.pop("WANDB_SERVICE", None)
        mode: Literal["online", "offline"] | None = None
        if "WANDB_MODE" not in os.environ:
            mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
        try:
            self.run = _connected(run, mode)
        except Exception as error:  # of the server, the network, the disk, its process
            if mode == "offline":
                raise
            folder = f"{run.folder}/wandb"
            log.warning("W&B cannot be reached, so it is recorded offline in %s: %s", folder, reason(error))
            wandb.teardown()  # its service process still holds the run's id
            self.run = _connected(run, "offline")

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics."""
        self.run.log_metrics(dict(values), step)

    def log_images(self, images: Mapping[str, Image.Image], step: int) -> None:
        """Log RGB pictures by name."""
        for name, picture in images.items():
            self.run.log_image(name, [picture], step=step)

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log a table."""
        if rows:
            self.run.log_table(name, list(rows[0]), [list(row.values()) for row in rows])

    def log_lines(self, name: str, lines: Mapping[str, Sequence[tuple[float, float]]], x_name: str) -> None:
        """Log a plot of lines."""
        plot = wandb.plot.line_series(
            xs=[[x for x, _ in line] for line in lines.values()],
            ys=[[y for _, y in line] for line in lines.values()],
            keys=list(lines),
            title=name,
            xname=x_name,
        )
        self.run.experiment.log({name: plot})

    def update_config(self, values: Mapping[str, Any]) -> None:
        """Add to the run's config."""
        self.run.experiment.config.update(dict(values), allow_val_change=True)

    def finish(self, exit_code: int) -> None:
        """End the W&B run, which Lightning never does: its last records would still be unwritten.

        What a server does not take within half a minute stays in the run's wandb/ folder, for `wandb sync`. W&B's
        server gives a trial of its sweeps that a signal ended to another agent.
        """
        try:
            if exit_code > 128 and _in_sweep() and wandb.run is not None:
                wandb.run.mark_preempting()
            wandb.finish(exit_code=exit_code)
        except Exception as error:  # a signal to the whole job has ended its process before, its disk is full, …
            log.warning("W&B's process has ended; what it had recorded is in the run's wandb/ folder: %s", error)


def _connected(run: LoggedRun, mode: Literal["online", "offline"] | None) -> lightning.WandbLogger:
    settings = run.settings
    logger = lightning.WandbLogger(
        save_dir=run.folder,
        resume="allow",
        project=settings.project,
        entity=settings.entity,
        tags=settings.tags or None,
        mode=mode,
        settings=wandb.Settings(silent=mode == "offline", init_timeout=_PATIENCE, finish_timeout=_PATIENCE),
        log_model=False,
        name=run.name,
        id=run.id,
        group=settings.group,
        job_type=settings.job_type,
        config=run.config,  # at init: in a W&B sweep, what is logged later loses the swept subtrees
    )
    # Lightning always passes these, and W&B warns of them: of the first always, of the others in its sweeps, where
    # the agent has said where the run belongs
    for key in ("anonymous", *(("project", "entity", "id") if _in_sweep() else ())):
        logger._wandb_init.pop(key, None)
    _ = logger.experiment  # connects
    return logger


def _in_sweep() -> bool:
    """Whether W&B's agent has started this process."""
    return "WANDB_SWEEP_ID" in os.environ
