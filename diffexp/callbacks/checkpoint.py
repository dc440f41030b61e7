"""Save checkpoints during training, after everything they depend on, and handle failures to save."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import lightning as L
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.loggers import Logger

from diffexp.checkpoints.file import prune, read_checkpoint, write_checkpoint
from diffexp.checkpoints.paths import checkpoint_file, list_checkpoints
from diffexp.config.schemas.experiment import Experiment
from diffexp.data.images import Fingerprint
from diffexp.errors import EnvironmentFailure, UserError
from diffexp.loggers.jsonl import JSONLLogger
from diffexp.models.nonfinite import REMEDY, DivergedError
from diffexp.runs.directory import Run, config_text
from diffexp.system.best_effort import BestEffort, reason

log = logging.getLogger(__name__)

_MISSES = 3  # failed saves in a row that end the run, because further training would be lost


class AtomicCheckpointIO(TorchCheckpointIO):
    """Atomic checkpoints: complete or absent, and sealed with a digest; see `diffexp.checkpoints.file`.

    Lightning's own writer goes through $TMPDIR, from where a move is not atomic across file systems. Its reader
    executes content from http addresses.

    Args:
        on_error: called with the error of a failed save instead of raising it. Only the main process writes, and the
            others would wait for it indefinitely.
    """

    def __init__(self, on_error: Callable[[OSError], None] | None = None) -> None:
        super().__init__()
        self.on_error = on_error

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write the checkpoint to `path`."""
        try:
            write_checkpoint(checkpoint, Path(path))
        except OSError as error:
            if self.on_error is None:
                raise
            self.on_error(error)

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Read a diffexp checkpoint from a local file, as data only."""
        return read_checkpoint(Path(path), checked=False)


class StepCheckpoint(L.Callback):
    """Saves a checkpoint every `every` optimiser steps, and when training ends at a step boundary for any reason.

    The loggers write to disk first. If a save fails, diffexp warns, and training continues until the next save. After
    three failures in a row, or at the end, it raises an `EnvironmentFailure`. The last good checkpoint is kept in any
    case.

    Lightning's ModelCheckpoint does not save at the end of a run whose length is not a multiple of the interval, nor
    under a name that contains only the step.

    Args:
        folder: an existing folder for the files step-00001000.ckpt, ….
        every: optimiser steps between two checkpoints.
        keep: number of latest checkpoints to keep; None keeps all.
        extra: called at each save; returns plain data to add to the checkpoint.
        on_saved: called with the file on the main process, after the file is safe.

    Attributes:
        spared: a further checkpoint to keep, or None.
    """

    def __init__(
        self,
        folder: str | Path,
        every: int,
        keep: int | None = 2,
        extra: Callable[[], dict[str, Any]] = dict,
        on_saved: Callable[[Path], None] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.every = every
        self.keep = keep
        self.extra = extra
        self.on_saved = on_saved
        self.spared: Path | None = None
        self._saved_step = -1
        self._error: OSError | None = None
        self._misses = 0
        self._last_good: Path | None = None
        self._pruning = BestEffort(f"{folder}: old checkpoints cannot be removed")

    @classmethod
    def from_config(cls, experiment: Experiment, run: Run, fingerprint: Fingerprint, loggers: Sequence[Logger]) -> Self:
        """Build the callback of a config; each checkpoint records its run and what its training images are."""
        config = config_text(experiment)

        def extra() -> dict[str, Any]:
            checksums = [logger.checksum().as_dict() for logger in loggers if isinstance(logger, JSONLLogger)]
            metrics = {"metrics": checksums[0]} if checksums else {}  # only the main process, which writes, has loggers
            about = {"data": fingerprint.text, "class_names": fingerprint.images.class_names}
            return {"config": config, **about, "run_id": run.id(), **metrics}

        recording = BestEffort(f"{run.environment} cannot be written", (OSError, UserError))

        def on_saved(_: Path) -> None:
            with recording:
                run.record_save()

        return cls(run.checkpoints, experiment.checkpoint.every, experiment.checkpoint.keep, extra, on_saved)

    def failed(self, error: OSError) -> None:
        """Record the error of a failed save; for `AtomicCheckpointIO`."""
        self._error = error

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Skip the save at the step that a resumed run starts from; check that all processes start from the same step.

        Raises:
            UserError: if they do not.
        """
        self._saved_step = trainer.global_step
        self._last_good = next(reversed(list_checkpoints(self.folder)), None)
        first = trainer.strategy.broadcast(trainer.global_step)
        if not trainer.strategy.reduce_boolean_decision(first == trainer.global_step, all=True):
            raise UserError(
                f"{self.folder}: expected all processes to start from the same step, got {first} in the first and "
                f"{trainer.global_step} in this one. Give all of them access to the same files."
            )

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Save if this batch ended a step that is due, or the last step."""
        if trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps:
            self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the last step.

        Raises:
            EnvironmentFailure: if the last save failed.
        """
        self.save(trainer)
        if self._misses:
            raise self._failure()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the extra data."""
        checkpoint.update(self.extra())

    def save(self, trainer: L.Trainer) -> None:
        """Save the checkpoint of this step, unless it exists. Every process must call it.

        Raises:
            DivergedError: if the weights are not finite.
            EnvironmentFailure: if saving has failed three times in a row.
        """
        step = trainer.global_step
        if step == self._saved_step:
            return
        if not all(parameter.isfinite().all() for parameter in trainer.lightning_module.parameters()):
            raise DivergedError(f"step {step}: the weights are not finite: training has diverged. {REMEDY}")
        self._saved_step = step
        path = checkpoint_file(self.folder, step)
        why = self._write(trainer, path)
        if why is None:
            self._misses = 0
            self._last_good = path
            if trainer.is_global_zero:
                self.prune()
                if self.on_saved is not None:
                    self.on_saved(path)
            return
        self._misses += 1
        if trainer.is_global_zero:
            log.warning("%s could not be saved: %s; %s.", path, why, self._safe())
        if self._misses == _MISSES:
            raise self._failure()

    def _write(self, trainer: L.Trainer, path: Path) -> str | None:
        """Save; return why it failed or None, the same in every process."""
        self._error = None
        try:
            if trainer.is_global_zero:
                for logger in trainer.loggers:
                    logger.save()  # a resumed run does not log again what precedes its checkpoint
        except OSError as error:
            self._error = error
        if trainer.strategy.broadcast(self._error is None):
            try:
                trainer.save_checkpoint(path)
            except OSError as error:  # from another CheckpointIO
                self._error = error
        why: str | None = trainer.strategy.broadcast(None if self._error is None else reason(self._error))
        return why

    def prune(self) -> None:
        """Remove the old checkpoints."""
        with self._pruning:
            prune(self.folder, self.keep, self.spared)

    def _safe(self) -> str:
        return f"the last good checkpoint is {self._last_good}" if self._last_good else "there is no earlier checkpoint"

    def _failure(self) -> EnvironmentFailure:
        times = "the last checkpoint" if self._misses == 1 else f"{self._misses} checkpoints in a row"
        return EnvironmentFailure(
            f"{self.folder}: {times} could not be saved (see above); {self._safe()}. Fix the cause and use --resume."
        )
