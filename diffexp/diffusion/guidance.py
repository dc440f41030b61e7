"""Class-conditional networks and classifier-free guidance (Ho & Salimans 2022)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from diffexp.diffusion.predictions import Denoised, Denoiser, Network


class LabelledNetwork(Protocol):
    """A class-conditional network: (x_t (B, C, H, W), indices t (B,), classes (B,)) → output.

    With K classes, labels are 0 … K-1, and K is the null label ("no class").
    """

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Apply the network to x_t, at indices t, for classes `labels`."""
        ...


def labelled(network: LabelledNetwork, labels: Tensor) -> Network:
    """Bind the class labels, int64 (B,), to a class-conditional network; returns (x_t, t) → output."""
    return lambda x, t: network(x, t, labels)


def guided(of_class: Denoiser, of_none: Denoiser, weight: float, active: Callable[[int], bool]) -> Denoiser:
    """Combine a conditional and an unconditional denoiser by classifier-free guidance (Ho & Salimans 2022, eq. 6)::

        ε̂ = ε̂(x_t, ∅) + w (ε̂(x_t, c) - ε̂(x_t, ∅)),      w = 1 + (the paper's w)

    x̂_0 is combined likewise, which is equivalent. A learned variance is the conditional one.

    Args:
        of_class: the conditional denoiser.
        of_none: the unconditional denoiser (null label). Each guided step calls both.
        weight: the guidance scale w. With w = 1 only `of_class` is called, with w = 0 only `of_none`.
        active: whether to guide at index t (Kynkäänniemi et al. 2024). At other t the result is `of_class`.
    """
    if weight == 0:
        return of_none

    def denoise(x_t: Tensor, t: int) -> Denoised:
        denoised = of_class(x_t, t)
        if weight == 1 or not active(t):
            return denoised
        without = of_none(x_t, t)
        return replace(
            denoised,
            x0=torch.lerp(without.x0, denoised.x0, weight),
            epsilon=torch.lerp(without.epsilon, denoised.epsilon, weight),
        )

    return denoise
