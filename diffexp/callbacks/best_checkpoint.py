"""Keep the checkpoint with the best value of a logged metric."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import lightning as L

from diffexp.callbacks.checkpoint import StepCheckpoint
from diffexp.checkpoints.best import best_saved, is_better, link_best
from diffexp.checkpoints.paths import checkpoint_file
from diffexp.config.schemas.experiment import Experiment
from diffexp.loggers.jsonl import JSONLLogger
from diffexp.system.best_effort import BestEffort


class BestCheckpoint(L.Callback):
    """Keeps the best checkpoint in addition to the latest ones, as checkpoints/best.ckpt.

    It is saved at the step at which the metric is logged. The best one follows from the logged rows and the saved
    checkpoints, so a resumed run keeps the same. It runs after the callbacks that log the metric.

    Args:
        saver: saves the checkpoints.
        metric: the metric's name in the run's metrics.jsonl.
        mode: whether the lowest or the highest value is the best.
        intervals: the metric is logged at multiples of one of these numbers of steps, and at the last step.
    """

    def __init__(
        self, saver: StepCheckpoint, metric: str, mode: Literal["min", "max"] = "min", intervals: Sequence[int] = (1,)
    ) -> None:
        self.saver = saver
        self.metric = metric
        self.mode: Literal["min", "max"] = mode
        self.intervals = intervals
        self._best: tuple[float, Path] | None = None
        self._linking = BestEffort(f"{saver.folder}/best.ckpt cannot be written")

    @classmethod
    def from_config(cls, experiment: Experiment, saver: StepCheckpoint, intervals: Sequence[int]) -> Self | None:
        """Build the callback of a config, or return None if it monitors no metric."""
        wanted = experiment.checkpoint
        return None if wanted.monitor is None else cls(saver, wanted.monitor, wanted.mode, intervals)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find the best checkpoint of a resumed run, and include what it has just repeated."""
        for logger in _metrics(trainer):
            self._best = best_saved(logger.kept, self.saver.folder, self.metric, self.mode)
        if self._best is not None:
            self._keep()
        self._look(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Save the checkpoint of this step if it is the best."""
        step = trainer.global_step
        if step == trainer.max_steps or trainer.should_stop or any(step % every == 0 for every in self.intervals):
            self._look(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Include what a run repeats that is resumed after its last step, whose checkpoint exists."""
        self._include(trainer.global_step, self._better(trainer))

    def _look(self, trainer: L.Trainer) -> None:
        value = self._better(trainer)
        if trainer.strategy.broadcast(value is not None):  # only the first process has loggers
            self.saver.save(trainer)
            self._include(trainer.global_step, value)

    def _better(self, trainer: L.Trainer) -> float | None:
        """Return the metric at this step if it is the best."""
        for logger in _metrics(trainer):
            step, value = logger.latest.get(self.metric, (-1, math.nan))
            better = self._best is None or is_better(value, self._best[0], self.mode)
            if step == trainer.global_step and math.isfinite(value) and better:
                return value
        return None

    def _include(self, step: int, value: float | None) -> None:
        path = checkpoint_file(self.saver.folder, step)
        if value is not None and path.is_file():  # its save may have failed
            self._best = value, path
            self._keep()

    def _keep(self) -> None:
        assert self._best is not None
        self.saver.spared = self._best[1]
        with self._linking:
            link_best(self._best[1])
        self.saver.prune()


def _metrics(trainer: L.Trainer) -> list[JSONLLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, JSONLLogger)]
