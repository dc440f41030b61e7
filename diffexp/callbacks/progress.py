"""A progress bar that counts optimiser steps, with rate and time left."""

import sys
from contextlib import suppress
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from diffexp.models.base import log_every_n_steps

# Lightning's bar counts the batches of an epoch; an endless stream has none, so it could not tell the time left.


class Stderr:
    """Standard error, which may be a log on a full disk, or a pipe that nobody reads: what cannot be told is not."""

    def write(self, text: str) -> int:
        """Write, if that is possible."""
        with suppress(OSError, ValueError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, if that is possible."""
        with suppress(OSError, ValueError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def interval() -> float:
    """Seconds between two looks of a bar: a log file shall not be flooded."""
    return 0.2 if sys.stderr.isatty() else 30.0


def calls_bar(what: str, calls: int, *, disable: bool) -> "tqdm[Any]":
    """A bar over network calls, which goes away when they are done."""
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
    """Shows step, rate, time left and what the model logs for the bar, on the main process's standard error.

    Where that is no terminal (a batch job's log) it writes a line every half minute.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: tqdm[Any] | None = None

    def disable(self) -> None:
        """Show nothing; Lightning calls it on all processes but the main one."""
        self._enabled = False

    def enable(self) -> None:
        """Show again."""
        self._enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar at the step that a resumed run starts from."""
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
