"""What is done every so many steps, and made up for by a resumed run."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import lightning as L


class GivenUpError(Exception):
    """What was being done was given up because the run is to stop."""


class Periodic(L.Callback, ABC):
    """Acts every so many optimiser steps and after the last one.

    A resumed run first makes up for what was given up at the step it starts from.

    Args:
        every: steps between two times.
        give_up: asked after every network call whether to leave it undone, because the run is to stop.
    """

    def __init__(self, every: int, give_up: Callable[[], bool] = lambda: False) -> None:
        self.every = every
        self.give_up = give_up
        self._step = 0
        self._tried = -1

    @abstractmethod
    def act(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Do it. Called in every process."""

    @abstractmethod
    def finished(self, step: int) -> bool:
        """Whether it has been done at a step."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make up for what was given up."""
        self._step = self._tried = trainer.global_step
        self._make_up(trainer, pl_module)

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
            self._make_up(trainer, pl_module)

    def _due(self, trainer: L.Trainer) -> bool:
        step = trainer.global_step
        return step > 0 and (step % self.every == 0 or step == trainer.max_steps)

    def _make_up(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        missing = self._due(trainer) and not self.finished(trainer.global_step) and not self.give_up()
        if trainer.strategy.broadcast(missing):
            self.act(trainer, pl_module)

    def watch(self, trainer: L.Trainer, tell: Callable[[], object]) -> Callable[[], None]:
        """What a model calls after every network call: it tells the progress, and gives up if the run is to stop."""

        def after_call() -> None:
            tell()
            # alone only: processes that give up at different calls would wait for each other for ever
            if trainer.world_size == 1 and self.give_up():
                raise GivenUpError

        return after_call
