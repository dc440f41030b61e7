"""What is done every so many steps, and made up for by a resumed run."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import lightning as L


class StoppedError(Exception):
    """What was being done was stopped because the run is to stop."""


class Periodic(L.Callback, ABC):
    """Acts every so many optimiser steps and after the last one.

    A resumed run first makes up for what was stopped at the step it starts from.

    Args:
        every: steps between two times.
        should_stop: asked after every network call whether to leave it undone, because the run is to stop.
    """

    def __init__(self, every: int, should_stop: Callable[[], bool] = lambda: False) -> None:
        self.every = every
        self.should_stop = should_stop
        self._step = 0
        self._tried = -1

    @abstractmethod
    def act(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Do it. Called in every process."""

    @abstractmethod
    def finished(self, step: int) -> bool:
        """Whether it has been done at a step."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make up for what was stopped."""
        self._step = self._tried = trainer.global_step
        self._catch_up(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Act, if this batch ended a step that is due."""
        if trainer.global_step != self._step and self._due(trainer):
            self._tried = trainer.global_step
            self.act(trainer, pl_module)
        self._step = trainer.global_step

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make up for what is missing in a run that is resumed after its last step, where training does not start."""
        if self._tried != trainer.global_step:
            pl_module.to(trainer.strategy.root_device)  # Lightning has taken it back to the CPU
            self._catch_up(trainer, pl_module)

    def _due(self, trainer: L.Trainer) -> bool:
        step = trainer.global_step
        return step > 0 and (step % self.every == 0 or step == trainer.max_steps)

    def _catch_up(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        missing = self._due(trainer) and not self.finished(trainer.global_step) and not self.should_stop()
        if trainer.strategy.broadcast(missing):
            self.act(trainer, pl_module)

    def watch(self, trainer: L.Trainer, tell: Callable[[], object]) -> Callable[[], None]:
        """What a model calls after every network call: it tells the progress, and gives up if the run is to stop."""

        def after_call() -> None:
            tell()
            # alone only: processes that stop at different calls would wait for each other without end
            if trainer.world_size == 1 and self.should_stop():
                raise StoppedError

        return after_call
