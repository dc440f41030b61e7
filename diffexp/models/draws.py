"""What training draws at random for a step."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffexp.diffusion.timesteps import Timesteps


@dataclass(frozen=True)
class Drawing:
    """What is wanted.

    Attributes:
        timesteps: their distribution.
        second_noise: for the prediction that takes one.
        label_dropout: probability that an image's label is withheld; None of a model without classes.
    """

    timesteps: Timesteps
    second_noise: bool = False
    label_dropout: float | None = None


@dataclass(frozen=True)
class Draws:
    """What was drawn for a batch.

    Attributes:
        t: indices (B,).
        noise: ε, shape (B, C, H, W).
        other: a second noise of that shape, for the prediction that wants it.
        withheld: whether an image's label is, bool (B,); None of a model without classes.
        labels: classes (B,), one more than there are where they are withheld.
        weights: what each image's loss counts, (B,), where the timesteps are not drawn evenly; None is 1.
    """

    t: Tensor
    noise: Tensor
    other: Tensor | None = None
    withheld: Tensor | None = None
    labels: Tensor | None = None
    weights: Tensor | None = None

    def of(self, part: int, size: int, labels: Tensor | None, classes: int | None) -> "Draws":
        """Those of one part of the batch, of `size` images with these labels (size,), of a model with `classes`."""
        mine = slice(part * size, (part + 1) * size)
        given = None
        if classes is not None:
            assert labels is not None
            assert self.withheld is not None
            given = labels.masked_fill(self.withheld[mine], classes)
        other = None if self.other is None else self.other[mine]
        weights = None if self.weights is None else self.weights[mine]
        return Draws(self.t[mine], self.noise[mine], other, labels=given, weights=weights)


def draw(images: Tensor, parts: int, source: torch.Generator, wanted: Drawing) -> Draws:
    """What the global batch of a step draws.

    Args:
        images: of one part of it, shape (B, C, H, W).
        parts: processes times accumulated batches.
        source: of the step.
        wanted: what.
    """
    count, device = parts * len(images), images.device

    def normal() -> Tensor:
        return torch.randn(count, *images.shape[1:], generator=source, device=device)

    t = wanted.timesteps.draw(count, source)
    noise = normal()
    other = normal() if wanted.second_noise else None
    withheld = None
    if wanted.label_dropout is not None:
        withheld = torch.rand(count, generator=source, device=device) < wanted.label_dropout
    return Draws(t, noise, other, withheld, weights=wanted.timesteps.weights(t))
