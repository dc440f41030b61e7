"""Loggers that a run can do without, W&B above all: a failure of theirs, or an outage, never ends or holds up a run."""

import logging
import os
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, ClassVar, Literal

import wandb
from lightning.pytorch.loggers import Logger, WandbLogger

from diffexp.config.words import Wandb
from diffexp.tolerance import Tolerance, reason

log = logging.getLogger(__name__)

# Seconds that W&B's server has to answer when a run starts, and to take what is left when it ends.
_PATIENCE = 30.0

# What Lightning's logger calls the step in W&B.
STEP_IN_WANDB = "trainer/global_step"

# A logged row, but for its values: its step and its names.
Row = tuple[int | None, frozenset[str]]


def row_of(metrics: Mapping[str, Any], step: int | None) -> Row:
    """Which row metrics are that are logged at a step."""
    return step, frozenset(metrics) - {"step"}


class Mirror(Logger):
    """What makes one of Lightning's loggers a mirror: its failures are told, once, and forgiven.

    Attributes:
        known: rows that were logged before the run was stopped, and are not logged again.
        kind: how the config calls it.
    """

    known: Set[Row] = frozenset()
    kind: ClassVar[str]

    @property
    def tolerance(self) -> Tolerance:
        """Where it may fail."""
        if "_tolerance" not in vars(self):
            self._tolerance = Tolerance(f"the logger {self.kind} cannot record", Exception)
        return self._tolerance

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Log a row, unless it was before."""
        if row_of(metrics, step) not in self.known:
            with self.tolerance:
                super().log_metrics(metrics, step)  # type: ignore[safe-super]  # of the logger mixed with

    def save(self) -> None:
        """See that what was logged is kept."""
        with self.tolerance:
            super().save()

    def finalize(self, status: str) -> None:
        """End."""
        with self.tolerance:
            super().finalize(status)


class MirrorWandb(Mirror, WandbLogger):
    """A run in W&B."""

    kind = "wandb"

    def log_image(self, key: str, images: list[Any], step: int | None = None, **more: Any) -> None:
        """Log pictures."""
        with self.tolerance:
            super().log_image(key, images, step, **more)


def connect_wandb(settings: Wandb, folder: Path, **about: Any) -> MirrorWandb | None:
    """W&B's logger, connected; WANDB_MODE decides how if set.

    It records offline when nobody is logged in or the server does not answer, and is None when even that fails.

    Args:
        settings: where the run appears.
        folder: where it is kept; offline runs lie in its wandb/.
        about: what `wandb.init` is told of the run: name, id, group, job_type, config.
    """
    # of a process that started this one: it outlives a killed run, whose id nobody could use again
    os.environ.pop("WANDB_SERVICE", None)
    mode: Literal["online", "offline"] | None = None
    if "WANDB_MODE" not in os.environ:
        mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
    logger, why = _connected(settings, folder, mode, about)
    if logger is None and mode != "offline":
        log.warning("W&B cannot be reached, so it is recorded offline in %s/wandb: %s", folder, why)
        wandb.teardown()  # its service process still holds the run's id
        logger, why = _connected(settings, folder, "offline", about)
    if logger is None:
        log.warning("nothing is recorded for W&B: %s", why)
    return logger


def _connected(
    settings: Wandb, folder: Path, mode: Literal["online", "offline"] | None, about: dict[str, Any]
) -> tuple[MirrorWandb | None, str]:
    """The logger; or None, and why."""
    try:
        logger = MirrorWandb(
            save_dir=folder,
            resume="allow",
            project=settings.project,
            entity=settings.entity,
            tags=settings.tags or None,
            mode=mode,
            settings=wandb.Settings(silent=mode == "offline", init_timeout=_PATIENCE, finish_timeout=_PATIENCE),
            log_model=False,
            **about,
        )
        # Lightning always passes these, and W&B warns of them: of the first always, of the others in its sweeps, where
        # the agent has said where the run belongs
        for key in ("anonymous", *(("project", "entity", "id") if _in_sweep() else ())):
            logger._wandb_init.pop(key, None)
        _ = logger.experiment  # connects
    except Exception as error:  # of the server, the network, the disk, its process: no reason to end a training
        return None, reason(error)
    return logger, ""


def finish(loggers: list[Logger], stopped_by: int | None = None, *, failed: bool = False) -> None:
    """End the W&B run, which Lightning never does: its last records would still be unwritten.

    What a server does not take within half a minute stays in the run's wandb/ folder, for `wandb sync`.

    Args:
        loggers: of the run.
        stopped_by: the signal that ended it early. W&B's server gives a trial of its sweeps that was ended so to
            another agent.
        failed: whether the run ends with an error.
    """
    if not any(isinstance(logger, WandbLogger) for logger in loggers):
        return
    try:
        if stopped_by is not None and _in_sweep() and wandb.run is not None:
            wandb.run.mark_preempting()
        wandb.finish(exit_code=int(failed) if stopped_by is None else 128 + stopped_by)
    except Exception as error:  # a signal to the whole job has ended its process before, its disk is full, …
        log.warning("W&B's process has ended; what it had recorded is in the run's wandb/ folder: %s", error)


def _in_sweep() -> bool:
    """Whether W&B's agent has started this process."""
    return "WANDB_SWEEP_ID" in os.environ
