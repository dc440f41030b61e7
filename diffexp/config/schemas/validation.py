"""Schema of the loss on held-out images during training."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from diffexp.config.context import Context
from diffexp.config.fields import number

_SHARE = 0.02  # of the training's computation, at the default interval
_PASSES = 3  # computation of a training step per image, in forward passes: one forward and two backward
_MOST = 100  # validations of a training at the default interval


@dataclass
class ValidationConfig:
    """Loss on held-out images during training, every `every` steps and at the end, in bits per dimension.

    It is measured with the averaged and the raw weights, and with the averaged weights on as many training images.

    Keys:
        every: steps between two validations. There is always one at the end. null chooses them so that validation takes
            at most 2 % of the computation, and 100 validations at most.
        count: images of each set, evenly spaced; a smaller split is used completely.
        seed: seed of the noise. Image i depends only on seed and i, so every validation uses the same noise.
        split: split of the dataset to use; by default held_out where data.held_out > 0.
        batch_size: images at once on each device; null uses that of training.
        patience: stop training after so many successive validations without a new best; null never stops.
    """

    every: int | None = number(None, at_least=1)
    count: int = number(200, at_least=2)
    seed: int = number(0, at_least=0)
    split: Literal["held_out", "test"] = "test"
    batch_size: int | None = number(None, at_least=1)
    patience: int | None = number(None, at_least=1)

    def fitting_defaults(self, context: Context) -> Iterator[tuple[str, Any]]:
        """Yield the held-out images as the split, if there are any."""
        if context.split_sizes.get("held_out"):
            yield "split", "held_out"

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        if self.split == "held_out" and not context.split_sizes.get("held_out"):
            yield "split", "expected test, got held_out, which has no images. Train with data.held_out > 0."

    def interval(self, steps: int, batch_size: int, calls: int, *, ema: bool) -> int:
        """Return the number of steps between two validations.

        Args:
            steps: optimiser steps of the training.
            batch_size: images per optimiser step.
            calls: network calls of a validation per image.
            ema: whether the weights are averaged.
        """
        if self.every is not None:
            return self.every
        passes = calls * self.count * (3 if ema else 2)
        several = int(_SHARE * steps * batch_size * _PASSES / passes)
        return _rounded_up(steps / min(max(several, 1), _MOST))


def _rounded_up(steps: float) -> int:
    """Round up to two significant digits."""
    unit = int(10 ** max(0, math.floor(math.log10(steps)) - 1))
    return math.ceil(steps / unit) * unit
