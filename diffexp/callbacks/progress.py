"""A progress bar over optimiser steps, with rate and time left."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from diffexp.models.base import log_every_n_steps
from diffexp.system.terminal import progress_bar

# Lightning's bar counts batches of an epoch. An endless stream has no epochs, so that bar has no time left to show.


class StepProgress(ProgressBar):
    """Shows step, rate, time left and the model's `prog_bar` metrics on the main process's standard error.

    If standard error is not a terminal (a batch job's log), it writes a line every half minute, and one at the end.
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
        self._bar = progress_bar(
            "train", trainer.max_steps, "step", initial=trainer.global_step, disable=not self._enabled
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
