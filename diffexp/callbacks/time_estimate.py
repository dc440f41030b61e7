"""Estimate the time of a training from its first steps."""

import time
from statistics import median
from typing import Any

import lightning as L

from diffexp.formatting import duration
from diffexp.system.terminal import say

_SECONDS = 2.0  # of steps to measure
_STEPS = 3  # at least, after the first, which takes longer


class TimeEstimate(L.Callback):
    """Prints the estimated time of the remaining steps, once a few have been measured.

    It is the median time of a step, thus without the grids, scores and checkpoints in between.
    """

    def __init__(self) -> None:
        self._ends: list[float] | None = []
        self._step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note where training starts."""
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Measure a step."""
        if self._ends is None or trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        self._ends.append(time.monotonic())
        if len(self._ends) <= _STEPS or self._ends[-1] - self._ends[0] < _SECONDS:
            return
        each = median(after - before for before, after in zip(self._ends, self._ends[1:], strict=False))
        left, self._ends = trainer.max_steps - self._step, None
        if trainer.is_global_zero and left:
            say(f"estimated time: about {duration(each * left)} for the other {left:,} steps, without grids and scores")
