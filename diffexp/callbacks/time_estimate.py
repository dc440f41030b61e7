"""Estimate the time of a training from its first steps."""

import time
from itertools import pairwise
from statistics import median
from typing import Any

import lightning as L

from diffexp.formatting import duration
from diffexp.system.terminal import say

_STEPS, _SECONDS = 3, 2.0  # to measure at least, after the first step, which takes longer
_ENOUGH = 30.0  # seconds after which fewer steps do


class TimeEstimate(L.Callback):
    """Prints the estimated time of the remaining steps, once a few have been measured.

    It is the median time of a step, thus without the grids, scores and checkpoints in between.

    Args:
        only: end the training then, without printing.

    Attributes:
        seconds: the median time of a step; None until it is measured.
    """

    def __init__(self, *, only: bool = False) -> None:
        self.seconds: float | None = None
        self._only = only
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
        measured, span = len(self._ends) - 1, self._ends[-1] - self._ends[0]
        if not (measured >= _STEPS and span >= _SECONDS) and not (measured and span >= _ENOUGH):
            return
        self.seconds = median(after - before for before, after in pairwise(self._ends))
        left, self._ends = trainer.max_steps - self._step, None
        if self._only:
            trainer.should_stop = True
        elif trainer.is_global_zero and left:
            rest = duration(self.seconds * left)
            say(f"estimated time: about {rest} for the other {left:,} steps, without grids and scores")
