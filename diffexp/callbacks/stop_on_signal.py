"""End training at the next step boundary when a signal requests it."""

import os
import signal
from contextlib import suppress
from types import FrameType
from typing import Any

import lightning as L
import torch

from diffexp.system.distributed import is_main_process
from diffexp.system.signals import handled_signals


class StopOnSignal(L.Callback):
    """Ends training after the current optimiser step on Ctrl-C (SIGINT) or SIGTERM, SIGUSR1, SIGUSR2 or SIGHUP.

    The saved state is thus that of a complete step. A second Ctrl-C interrupts immediately, as without this callback.
    Lightning's own handlers act between any two instructions, where weights may be partly updated.

    Attributes:
        received: the signal that ended training, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._step = 0

    def is_asked(self) -> bool:
        """Return whether a signal has requested a stop."""
        return self.received is not None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Install the handlers; earlier ones Lightning would call in addition to its own."""
        self._step = trainer.global_step
        self._before = {number: signal.signal(number, self._handle) for number in handled_signals()}

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Stop at the end of an optimiser step if a signal arrived; all processes stop at the same step."""
        if trainer.global_step == self._step:
            return  # an accumulated batch: its gradients would be lost
        self._step = trainer.global_step
        number = int(self.received or 0)
        if trainer.world_size > 1:  # a launcher may signal only one of them
            mine = torch.tensor(float(number), device=trainer.strategy.root_device)
            number = int(trainer.strategy.reduce(mine, reduce_op="max"))
        if number:  # a signal after the reduction counts at the next step, because other processes have not seen it
            self.received = signal.Signals(number)
            trainer.should_stop = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the previous handlers."""
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Restore the previous handlers."""
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
            text += " (Ctrl-C again stops immediately and loses it)" if number == signal.SIGINT else ""
            with suppress(OSError):
                os.write(2, f"{text}\n".encode())  # not print, which is not reentrant
