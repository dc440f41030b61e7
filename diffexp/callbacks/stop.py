"""Signals that ask a run to stop: they set a flag, and training ends at the next step boundary."""

import signal
import sys
from types import FrameType
from typing import Any

import lightning as L

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopOnSignal(L.Callback):
    """Ctrl-C (SIGINT) and SIGTERM end training after the running step, so that what is saved is a whole step.

    A second Ctrl-C interrupts at once, as without this callback. Lightning's own handling acts between any
    two instructions, where weights may be half updated.

    Attributes:
        received: the signal that ended training, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._trainer: L.Trainer | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Install the handlers."""
        self._trainer = trainer
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Let all processes stop at the same step."""
        if trainer.world_size > 1:
            trainer.should_stop = trainer.strategy.reduce_boolean_decision(trainer.should_stop, all=False)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Put the former handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        assert self._trainer is not None
        self._trainer.should_stop = True
        if self._trainer.is_global_zero:
            text = f"\n{self.received.name}: stopping after this step (Ctrl-C again: at once, losing it)"
            print(text, file=sys.stderr, flush=True)
