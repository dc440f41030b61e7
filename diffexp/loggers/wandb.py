"""The W&B logger, online or offline."""

import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import wandb
from lightning.pytorch import loggers as lightning
from PIL import Image

from diffexp.loggers.base import LoggedRun, RunLogger
from diffexp.system.best_effort import reason
from diffexp.system.terminal import say

log = logging.getLogger(__name__)

# Timeout in seconds for W&B's server, to respond when a run starts and to receive the last records when it ends.
_PATIENCE = 30.0

# The name of the step in Lightning's W&B logger.
STEP_IN_WANDB = "trainer/global_step"


class WandbLogger(RunLogger):
    """A run in W&B, in the mode of WANDB_MODE if set.

    Without a login, or if the server does not respond, it records offline in the run's wandb/ folder.
    """

    def __init__(self, run: LoggedRun) -> None:
        # a parent's service process would outlive a killed run and block the run's id
        os.environ.pop("WANDB_SERVICE", None)
        mode: Literal["online", "offline"] | None = None
        if "WANDB_MODE" not in os.environ:
            mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
        try:
            self.run = _connected(run, mode)
        except Exception as error:  # from the server, the network, the disk or W&B's process
            if mode == "offline":
                raise
            folder = f"{run.folder}/wandb"
            log.warning("W&B cannot be reached, so the run is recorded offline in %s: %s", folder, reason(error))
            wandb.teardown()  # its service process still holds the run's id
            self.run = _connected(run, "offline")

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics."""
        self.run.log_metrics(dict(values), step)

    def log_images(self, images: Mapping[str, Image.Image], step: int) -> None:
        """Log RGB images by name."""
        for name, picture in images.items():
            self.run.log_image(name, [picture], step=step)

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log a table."""
        if rows:
            self.run.log_table(name, list(rows[0]), [list(row.values()) for row in rows])

    def log_lines(self, name: str, lines: Mapping[str, Sequence[tuple[float, float]]], x_name: str) -> None:
        """Log a plot of named lines of (x, y) points."""
        plot = wandb.plot.line_series(
            xs=[[x for x, _ in line] for line in lines.values()],
            ys=[[y for _, y in line] for line in lines.values()],
            keys=list(lines),
            title=name,
            xname=x_name,
        )
        self.run.experiment.log({name: plot})

    def update_config(self, values: Mapping[str, Any]) -> None:
        """Add values to the run's config."""
        self.run.experiment.config.update(dict(values), allow_val_change=True)

    def finish(self, exit_code: int) -> None:
        """Finish the W&B run, which Lightning never does and without which the last records would be lost.

        Says where the run is recorded. Records that the server does not receive within 30 s stay in the run's wandb/
        folder, for `wandb sync`. In a W&B sweep, a trial that a signal stopped is marked as preempting, so that the
        server requeues it for another agent.
        """
        run = self.run.experiment
        folder, url = Path(run.settings.sync_dir), None if run.offline else run.url
        upload = f"upload it with: wandb sync {shlex.quote(os.path.relpath(folder))}"
        try:
            if exit_code > 128 and _in_sweep() and wandb.run is not None:
                wandb.run.mark_preempting()
            wandb.finish(exit_code=exit_code)
        except TimeoutError:  # of finish_timeout
            say(f"W&B: the server has not received the complete run; {upload}")
        except Exception as error:  # a signal to all processes of the job ended W&B's first, its disk is full, …
            say(f"W&B: its process has ended ({reason(error)}), and the server may lack the last records; {upload}")
        else:
            say(f"W&B: recorded offline; {upload}" if url is None else f"W&B: recorded at {url}")


def _timeouts() -> dict[str, Any]:
    """Return the timeouts that W&B's own variables, as WANDB_INIT_TIMEOUT, leave to us."""
    names = ("init_timeout", "finish_timeout")
    return {name: _PATIENCE for name in names if f"WANDB_{name.upper()}" not in os.environ}


def _connected(run: LoggedRun, mode: Literal["online", "offline"] | None) -> lightning.WandbLogger:
    settings = run.settings
    logger = lightning.WandbLogger(
        save_dir=run.folder,
        resume="allow",
        project=settings.project_name(),
        entity=settings.entity,
        tags=settings.tags or None,
        mode=mode,
        settings=wandb.Settings(silent=mode == "offline", finish_timeout_raises=True, **_timeouts()),
        log_model=False,
        name=run.name,
        id=run.id,
        group=settings.group,
        job_type=settings.job_type,
        config=run.config,  # at init, because in a W&B sweep a later update loses the swept subtrees
    )
    # Lightning always passes these keys. W&B warns about the first always, and about the others in its sweeps, where
    # the agent sets them
    for key in ("anonymous", *(("project", "entity", "id") if _in_sweep() else ())):
        logger._wandb_init.pop(key, None)
    _ = logger.experiment  # connects
    return logger


def _in_sweep() -> bool:
    """Whether W&B's sweep agent has started this process."""
    return "WANDB_SWEEP_ID" in os.environ
