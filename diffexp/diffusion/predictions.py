"""What the network predicts, and how x̂_0 and ε̂ follow from it.

All four are the same model written differently; with a = √ᾱ_t and s = √(1-ᾱ_t), so x_t = a x_0 + s ε:

    prediction       target of the network    the denoiser
    epsilon          ε                        ε̂ = output
    x0               x_0                      x̂_0 = output
    v                a ε - s x_0              x̂_0 = a x_t - s output,  ε̂ = s x_t + a output
    scaled_epsilon   ε                        ε̂ = √((1-ᾱ_t)/β_t) · output

(ε: Ho et al. 2020; v: Salimans & Ho 2022; scaled ε: the lecture notes, with which the reverse step reads
x_{t-1} = (x_t - √β_t · output)/√α_t.) The training loss compares `estimate` with `target`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from diffexp.diffusion.schedules import Schedule, Table

PREDICTIONS = ("epsilon", "x0", "v", "scaled_epsilon")

# A network: (x_t of shape (B, C, H, W), indices t of shape (B,)) → output of x_t's shape.
Network = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Denoised:
    """A denoiser's answer at (x_t, t): x_t = √ᾱ_t x0 + √(1-ᾱ_t) epsilon holds for the pair."""

    x0: Tensor
    epsilon: Tensor


class Denoiser(Protocol):
    """What samplers ask: x̂_0 and ε̂ for images x_t of shape (B, C, H, W), all at index t."""

    def __call__(self, x_t: Tensor, t: int) -> Denoised:
        """Return (x̂_0, ε̂), both of x_t's shape and type."""
        ...


class Prediction:
    """One of the four parametrisations, on one schedule.

    Args:
        name: "epsilon", "x0", "v" or "scaled_epsilon".
        schedule: the noise schedule.

    Raises:
        ValueError: for another name.
    """

    def __init__(self, name: str, schedule: Schedule) -> None:
        if name not in PREDICTIONS:
            raise ValueError(f"prediction must be one of {', '.join(PREDICTIONS)}, not {name!r}")
        self.name = name
        self.schedule = schedule
        self._output_scale = Table(((1 - schedule.alphas_cumprod) / schedule.betas).sqrt())

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What `estimate` should be: of x0's shape, for images x0, noise ε and indices t (B,)."""
        if self.name == "x0":
            return x0
        if self.name == "v":
            signal, sigma = self.schedule.levels(t, like=x0)
            return signal * noise - sigma * x0
        return noise

    def estimate(self, output: Tensor, t: Tensor) -> Tensor:
        """The network's output (B, C, H, W), scaled as its target is, at indices t (B,)."""
        if self.name != "scaled_epsilon":
            return output
        return output * self._output_scale.at(t, output)

    def denoiser(self, network: Network) -> Denoiser:
        """The denoiser that this network is under this prediction."""

        def denoise(x_t: Tensor, t: int) -> Denoised:
            indices = torch.full((len(x_t),), t, device=x_t.device)
            estimate = self.estimate(network(x_t, indices).to(x_t.dtype), indices)
            # numbers of the host, so that no step waits for the device
            alpha_bar = self.schedule.alpha_bar(t)
            signal, sigma = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
            # two operations each, not three: on a GPU with a small network every one counts
            if self.name == "x0":
                return Denoised(estimate, torch.sub(x_t, estimate, alpha=signal).div_(sigma))
            if self.name == "v":
                x0 = (signal * x_t).sub_(estimate, alpha=sigma)
                return Denoised(x0, (sigma * x_t).add_(estimate, alpha=signal))
            return Denoised(torch.sub(x_t, estimate, alpha=sigma).div_(signal), estimate)

        return denoise


def clipped(denoiser: Denoiser, schedule: Schedule, quantile: float | None = None) -> Denoiser:
    """The denoiser with x̂_0 kept in [-1, 1], the range of images, and ε̂ derived from it again.

    Args:
        denoiser: to wrap.
        schedule: gives ᾱ.
        quantile: None clips to [-1, 1]. Otherwise each image is clipped to this quantile of its |x̂_0|, where that
            exceeds 1, and divided by it ("dynamic thresholding", Saharia et al. 2022, section 2.3).
    """

    def denoise(x_t: Tensor, t: int) -> Denoised:
        denoised = denoiser(x_t, t)
        x0 = denoised.x0.clamp(-1, 1) if quantile is None else _thresholded(denoised.x0, quantile)
        alpha_bar = schedule.alpha_bar(t)
        epsilon = torch.sub(x_t, x0, alpha=alpha_bar**0.5).div_((1 - alpha_bar) ** 0.5)
        return replace(denoised, x0=x0, epsilon=epsilon)

    return denoise


def _thresholded(x0: Tensor, quantile: float) -> Tensor:
    ordered = x0.flatten(1).abs().sort(dim=1).values  # torch.quantile takes no more than 2²⁴ numbers
    below, part = divmod(quantile * (ordered.shape[1] - 1), 1)
    limit = ordered[:, int(below)].lerp(ordered[:, math.ceil(below + part)], part).clamp_(min=1)
    limit = limit.view(-1, *[1] * (x0.ndim - 1))
    return x0.clamp(-limit, limit).div_(limit)
