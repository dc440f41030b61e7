"""A progress bar over optimiser steps, with rate and time left."""

import sys
from contextlib import suppress
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from diffexp.models.base import log_every_n_steps

# Lightning's bar counts batches of an epoch. An endless stream has no epochs, so that bar has no time left to show.


class Stderr:
    """Standard error that drops output it cannot write, such as to a log on a full disk or a closed pipe."""

    def write(self, text: str) -> int:
        """Write the text, if possible."""
        with suppress(OSError, ValueError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, if possible."""
        with suppress(OSError, ValueError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def interval() -> float:
    """Return the seconds between two updates of a bar: fewer on a terminal than in a log file."""
    return 0.2 if sys.stderr.isatty() else 30.0


def calls_bar(what: str, calls: int, *, disable: bool) -> "tqdm[Any]":
    """Return a progress bar over network calls that disappears when they are done."""
    return tqdm(
        file=Stderr(),
        desc=what,
        total=calls,
        unit="call",
        leave=False,
        delay=1,
        mininterval=interval(),
        maxinterval=interval(),
        disable=disable,
    )


class StepProgress(ProgressBar):
    """Shows step, rate, time left and the model's `prog_bar` metrics on the main process's standard error.

    If standard error is not a terminal (a batch job's log), it writes a line every half minute.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: tqdm[Any] | None = None

    def disable(self) -> None:
        """Hide the bar; Lightning calls it on all processes but the main one."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bar."""
        self._enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar at the trainer's step."""
        self._bar = tqdm(
            file=Stderr(),
            total=trainer.max_steps,
            initial=trainer.global_step,
            desc="train",
            unit="step",
            dynamic_ncols=True,
            mininterval=interval(),
            maxinterval=interval(),
            disable=not self._enabled,
        )

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Advance to the trainer's step."""
        assert self._bar is not None
        self._bar.update(trainer.global_step - self._bar.n)
        if trainer.global_step % log_every_n_steps(trainer) == 0:
            metrics = {name: f"{float(value):.4f}" for name, value in trainer.progress_bar_metrics.items()}
            self._bar.set_postfix(metrics, refresh=False)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Close the bar."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
