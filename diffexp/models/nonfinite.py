"""Skip optimiser steps whose loss or gradient is not finite, up to a limit."""

import logging
from typing import Any

import torch
from torch import Tensor

from diffexp.errors import UserError

log = logging.getLogger(__name__)

# Ends the messages about diverged training; the trainer appends the last good checkpoint.
REMEDY = "Lower optim.lr, raise optim.warmup_steps or set training.gradient_clip_val"

# Under fp16 gradients overflow occasionally; the scaler then halves its factor, initially 2^16, until they fit.
_FP16_OVERFLOWS = 20
_NAMED = 5  # images listed in a message

# The losses of images (B,), their timesteps and their numbers in the dataset.
StepLosses = tuple[Tensor, Tensor | None, Tensor | None]


class DivergedError(UserError):
    """A loss, gradient or weight is not finite: training has diverged."""


class NonFiniteGuard:
    """Protects weights, optimiser moments and EMA from NaN: skips the step, and raises after too many in a row.

    A non-finite loss makes the gradient NaN, and the all-reduce of the gradients spreads it. All ranks inspect the
    reduced gradient's norm, so they agree without further communication. The fused optimiser skips the step on the
    device. The host reads the result immediately on a CPU, and one step later on a GPU, so that the device never waits
    for the host.

    Args:
        limit: consecutive steps that may be skipped; with 0, the first one is an error.
        fp16: whether a gradient scaler handles overflows itself.
    """

    def __init__(self, limit: int, *, fp16: bool = False) -> None:
        self.limit = limit + _FP16_OVERFLOWS if fp16 else limit
        self.fp16 = fp16
        self.in_a_row = 0
        self.skipped = 0
        self._seen: list[StepLosses] = []
        self._before: tuple[int, Tensor, Any, list[StepLosses]] | None = None

    def guarded(self, losses: Tensor, t: Tensor | None, images: Tensor | None) -> Tensor:
        """Return the loss to differentiate, the mean over the images; its gradient is NaN if the mean is not finite.

        Args:
            losses: losses of the images, (B,).
            t: their timestep indices (B,), if the model has timesteps.
            images: their numbers in the dataset (B,), for messages.
        """
        self._seen.append((losses.detach(), t, images))
        loss = losses.mean()
        # not torch.where, which copies both scalars to the GPU and synchronises
        return loss * torch.ones_like(loss).masked_fill(~loss.detach().isfinite(), torch.nan)

    def check(self, norm: Tensor, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Skip the optimiser step if the norm of the gradient is not finite.

        Args:
            norm: norm of the gradient, a scalar on the device.
            optimizer: the optimiser about to step; if it is a fused one, it skips the step on the device.
            step: the step, 1, 2, …

        Raises:
            DivergedError: if more than `limit` consecutive steps were not finite.
        """
        wrong = ~norm.isfinite()
        if optimizer.param_groups[0].get("fused"):
            optimizer.found_inf = wrong.float()  # type: ignore[attr-defined]  # as torch.amp.GradScaler passes it
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
        """Inspect the outcome of the previous step, if it is still pending.

        Raises:
            DivergedError: if more than `limit` consecutive steps were not finite.
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
            raise DivergedError(f"step {step}: {what}{times}: training has diverged. {REMEDY}")
        if not self.fp16 or "loss" in what:
            log.warning("step %d: skipped, because %s.", step, what)

    def state(self) -> dict[str, int]:
        """Return the state for a checkpoint, with the keys of diffexp 0.1."""
        return {"in_a_row": self.in_a_row, "left_out": self.skipped}

    def load(self, state: dict[str, int]) -> None:
        """Restore the state of a checkpoint."""
        self.in_a_row, self.skipped = state["in_a_row"], state["left_out"]


def _what(seen: list[StepLosses]) -> str:
    """Describe what is not finite: this process's loss with images and timesteps, or else the gradient."""
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
