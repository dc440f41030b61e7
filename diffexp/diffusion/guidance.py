"""Class labels, and classifier-free guidance by them (Ho & Salimans 2022)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from diffexp.diffusion.predictions import Denoised, Denoiser, Network


class LabelledNetwork(Protocol):
    """(x_t (B, C, H, W), indices t (B,), classes (B,)) → output; one class more than there are means "no class"."""

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Apply the network."""
        ...


def labelled(network: LabelledNetwork, labels: Tensor) -> Network:
    """The network for images of these classes, int64 (B,)."""
    return lambda x, t: network(x, t, labels)


def guided(of_class: Denoiser, of_none: Denoiser, weight: float, active: Callable[[int], bool]) -> Denoiser:
    """The denoiser whose ε̂ is that without class, moved by a weight towards and beyond that with class:

        ε̂ = ε̂(none) + w (ε̂(class) - ε̂(none))            (Ho & Salimans 2022, eq. 6, whose w is ours less 1)

    and x̂_0 alike, which is the same. A share of the variance is that with class.

    Args:
        of_class: the denoiser with class.
        of_none: the denoiser without; the network is called for both.
        weight: w; 1 is the denoiser with class, 0 that without, and then only that is called.
        active: the t at which to guide (Kynkäänniemi et al. 2024); elsewhere the denoiser is that with class.
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
