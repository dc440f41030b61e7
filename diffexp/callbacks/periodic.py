"""Actions every so many steps, which a resumed run repeats if they were interrupted."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import lightning as L


class StoppedError(Exception):
    """The action was interrupted because the run is stopping."""


class Periodic(L.Callback, ABC):
    """Acts every `every` optimiser steps and after the last one.

    A resumed run first repeats an action that was interrupted at the step it starts from.

    Args:
        every: optimiser steps between two actions.
        should_stop: called after every network call; True interrupts the action, because the run is stopping.

    Attributes:
        ends_early: called after a step; True says that it is the last one, although not `max_steps`.
    """

    def __init__(self, every: int, should_stop: Callable[[], bool] = lambda: False) -> None:
        self.every = every
        self.should_stop = should_stop
        self.ends_early: Callable[[], bool] = lambda: False
        self._step = 0
        self._tried = -1

    @abstractmethod
    def act(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Perform the action. Called in every process."""

    @abstractmethod
    def finished(self, step: int) -> bool:
        """Return whether the action at a step is complete."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Repeat an interrupted action."""
        self._step = self._tried = trainer.global_step
        self._catch_up(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Act if this batch ended a step that is due."""
        if trainer.global_step != self._step and self._due(trainer):
            self._tried = trainer.global_step
            self.act(trainer, pl_module)
        self._step = trainer.global_step

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Repeat an interrupted action of a run that is resumed after its last step, where training does not start."""
        if self._tried != trainer.global_step:
            pl_module.to(trainer.strategy.root_device)  # Lightning has moved it to the CPU
            self._catch_up(trainer, pl_module)

    def _due(self, trainer: L.Trainer) -> bool:
        step = trainer.global_step
        return step > 0 and (step % self.every == 0 or step == trainer.max_steps or self.ends_early())

    def _catch_up(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        missing = self._due(trainer) and not self.finished(trainer.global_step) and not self.should_stop()
        if trainer.strategy.broadcast(missing):
            self.act(trainer, pl_module)

    def watch(self, trainer: L.Trainer, tell: Callable[[], object]) -> Callable[[], None]:
        """Return a callback for network calls that reports progress, and interrupts the action if the run is stopping.

        Raises:
            StoppedError: from the callback, to interrupt the action; in single-process runs only.
        """

        def after_call() -> None:
            tell()
            # Single process only: processes that stop at different calls would deadlock.
            if trainer.world_size == 1 and self.should_stop():
                raise StoppedError

        return after_call
