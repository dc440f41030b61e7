"""Optimiser steps whose loss or gradient is not finite are left out, and limited in number."""

import logging
from typing import Any

import torch
from torch import Tensor

from diffexp.errors import UserError

log = logging.getLogger(__name__)

# What to do when training has diverged.
REMEDY = "try a lower optim.lr, more optim.warmup_steps or a training.gradient_clip_val"

# Under fp16 the gradient overflows now and then, and the scaler halves its factor of 2^16 until it does not.
_FP16_OVERFLOWS = 20
_NAMED = 5  # images

# The losses of images (B,), their timesteps and their numbers in the dataset.
StepLosses = tuple[Tensor, Tensor | None, Tensor | None]


class DivergedError(UserError):
    """Training has met a loss or gradient that is not finite."""


class NonFiniteGuard:
    """Guards weights, moments and average against NaN: such a step changes nothing, and too many in a row are an error.

    A loss that is not finite makes the gradient NaN, and adding up the gradients of all processes hands that on, so all
    of them decide alike without a further word. The fused optimiser leaves the step out on the device. The host looks
    at the outcome at once on a CPU, and one step later on a GPU, so that the device never waits for it.

    Args:
        limit: steps in a row that may be left out; 0 makes the first one an error.
        fp16: whether a gradient scaler looks after overflows itself.
    """

    def __init__(self, limit: int, *, fp16: bool = False) -> None:
        self.limit = limit + _FP16_OVERFLOWS if fp16 else limit
        self.fp16 = fp16
        self.in_a_row = 0
        self.skipped = 0
        self._seen: list[StepLosses] = []
        self._before: tuple[int, Tensor, Any, list[StepLosses]] | None = None

    def guarded(self, losses: Tensor, t: Tensor | None, images: Tensor | None) -> Tensor:
        """The loss to differentiate: the mean of the images' (B,), with a NaN gradient if that is not finite.

        Args:
            losses: of the images.
            t: their timestep indices (B,), of a model that has them.
            images: their numbers in the dataset (B,), for messages.
        """
        self._seen.append((losses.detach(), t, images))
        loss = losses.mean()
        # not torch.where, which copies both numbers to a GPU and waits
        return loss * torch.ones_like(loss).masked_fill(~loss.detach().isfinite(), torch.nan)

    def check(self, norm: Tensor, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Have the optimiser leave out the step if its gradient's norm is not finite.

        Args:
            norm: of the gradient, a scalar on the device.
            optimizer: which is about to step; left out on the device if it is a fused one.
            step: 1, 2, …

        Raises:
            DivergedError: if more than `limit` steps in a row were not finite.
        """
        wrong = ~norm.isfinite()
        if optimizer.param_groups[0].get("fused"):
            optimizer.found_inf = wrong.float()  # type: ignore[attr-defined]  # as torch.amp.GradScaler hands it over
        seen, self._seen = self._seen, []
        if wrong.is_cuda:
            on_host = torch.empty((), dtype=torch.bool, pin_memory=True)
            on_host.copy_(wrong, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
            self.look()
            self._before = (step, on_host, copied, seen)
        else:
            self._judge(step, bool(wrong), seen)

    def look(self) -> None:
        """Judge the step that has not been looked at yet, if there is one.

        Raises:
            DivergedError: as `check`.
        """
        if self._before is None:
            return
        step, wrong, copied, seen = self._before
        self._before = None
        copied.synchronize()
        self._judge(step, bool(wrong), seen)

    def _judge(self, step: int, wrong: bool, seen: list[StepLosses]) -> None:
        if not wrong:
            self.in_a_row = 0
            return
        self.in_a_row += 1
        self.skipped += 1
        what = _what(seen)
        if self.in_a_row > self.limit:
            times = f", {self.in_a_row} in a row (optim.skip_nonfinite: {self.limit})" if self.limit else ""
            raise DivergedError(f"step {step}: {what}{times}: training has diverged; {REMEDY}")
        if not self.fp16 or "loss" in what:
            log.warning("step %d is left out: %s", step, what)

    def state(self) -> dict[str, int]:
        """What a checkpoint keeps, with the keys of diffexp 0.1."""
        return {"in_a_row": self.in_a_row, "left_out": self.skipped}

    def load(self, state: dict[str, int]) -> None:
        """Take up what a checkpoint kept."""
        self.in_a_row, self.skipped = state["in_a_row"], state["left_out"]


def _what(seen: list[StepLosses]) -> str:
    """What is not finite: this process's loss, at which images and timesteps, or else the gradient."""
    wrong = []
    for losses, t, images in seen:
        for position in torch.nonzero(~losses.isfinite()).flatten().tolist():
            image = f"image {int(images[position])}" if images is not None else "an image"
            at = f" at t = {int(t[position])}" if t is not None else ""
            wrong.append(f"{image}{at}: {float(losses[position])}")
    if not wrong:
        return "the gradient is not finite"
    more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    return f"the loss is not finite ({', '.join(wrong[:_NAMED])}{more})"
