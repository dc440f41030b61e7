"""Signals that ask a run to stop: they set a flag, and training ends at the next step boundary."""

import os
import signal
from contextlib import suppress
from types import FrameType
from typing import Any

import lightning as L
import torch

from diffexp.system.distributed import is_main_process
from diffexp.system.signals import SIGNALS


class StopOnSignal(L.Callback):
    """Ctrl-C (SIGINT), SIGTERM, SIGUSR1 and SIGUSR2 end training after the running step.

    So what is saved is a whole step. A second Ctrl-C interrupts at once, as without this callback. Lightning's own
    handling acts between any two instructions, where weights may be half updated.

    Attributes:
        received: the signal that ended training, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._step = 0

    def is_asked(self) -> bool:
        """Whether a signal has asked to stop."""
        return self.received is not None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Install the handlers; not earlier, because Lightning then calls them besides its own."""
        self._step = trainer.global_step
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Stop, if a signal came and this batch ended an optimiser step; all processes at the same one."""
        if trainer.global_step == self._step:
            return  # an accumulated batch: its gradients would be lost
        self._step = trainer.global_step
        number = int(self.received or 0)
        if trainer.world_size > 1:  # a launcher may send it to one of them only
            mine = torch.tensor(float(number), device=trainer.strategy.root_device)
            number = int(trainer.strategy.reduce(mine, reduce_op="max"))
        if number:  # one that comes in between counts at the next step: the others do not know of it
            self.received = signal.Signals(number)
            trainer.should_stop = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the former handlers back."""
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Put the former handlers back."""
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        if is_main_process():
            text = f"\n{self.received.name}: stopping after this step"
            text += " (Ctrl-C again: at once, losing it)" if number == signal.SIGINT else ""
            with suppress(OSError):
                os.write(2, f"{text}\n".encode())  # not print, which may be within another one
