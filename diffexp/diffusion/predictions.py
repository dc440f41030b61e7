"""What the network predicts, and how x̂_0 and ε̂ follow from it.

All are the same model written differently; with a = √ᾱ_t and s = √(1-ᾱ_t), so x_t = a x_0 + s ε:

    prediction       target of the network    the denoiser
    epsilon          ε                        ε̂ = output
    x0               x_0                      x̂_0 = output
    v                a ε - s x_0              x̂_0 = a x_t - s output,  ε̂ = s x_t + a output
    scaled_epsilon   ε                        ε̂ = √((1-ᾱ_t)/β_t) · output
    step_epsilon     ε_t                      ε̂ = √((1-ᾱ_t)/β_t) · output

(ε: Ho et al. 2020; v: Salimans & Ho 2022; scaled ε: the lecture notes, with which the reverse step reads
x_{t-1} = (x_t - √β_t · output)/√α_t; ε_t: their first, un-merged loss, in which ε_t is the noise of the last of the t
steps, x_t = √α_t x_{t-1} + √β_t ε_t.) The training loss compares `estimate` with `target`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from diffexp.diffusion.schedules import Schedule, TimestepTable

PREDICTIONS = ("epsilon", "x0", "v", "scaled_epsilon", "step_epsilon")

# A network: (x_t of shape (B, C, H, W), indices t of shape (B,)) → output of x_t's shape.
Network = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Denoised:
    """A denoiser's answer at (x_t, t): x_t = √ᾱ_t x0 + √(1-ᾱ_t) epsilon holds for the pair.

    Attributes:
        variance_share: of a learned variance, where log σ_t² lies between log β̃_t (0) and log β_t (1), of x0's shape.
    """

    x0: Tensor
    epsilon: Tensor
    variance_share: Tensor | None = None


class Denoiser(Protocol):
    """What samplers ask: x̂_0 and ε̂ for images x_t of shape (B, C, H, W), all at index t."""

    def __call__(self, x_t: Tensor, t: int) -> Denoised:
        """Return (x̂_0, ε̂), both of x_t's shape and type."""
        ...


class Prediction:
    """One of these parametrisations, on one schedule.

    Args:
        name: one of `PREDICTIONS`.
        schedule: the noise schedule.
        learned_variance: whether the network has twice the channels, of which the second half tells the variance.

    Attributes:
        divides: whether x̂_0 = (x_t - √(1-ᾱ_t) ε̂)/√ᾱ_t, and so the network's error divided by √ᾱ_t.

    Raises:
        ValueError: for another name, or one that is derived from ε̂ where the last ᾱ is 0.
    """

    def __init__(self, name: str, schedule: Schedule, *, learned_variance: bool = False) -> None:
        if name not in PREDICTIONS:
            raise ValueError(f"prediction must be one of {', '.join(PREDICTIONS)}, not {name!r}")
        divides = name not in ("x0", "v")
        if divides and schedule.terminal_signal == 0:
            raise ValueError(f"prediction must be x0 or v where nothing of x_0 is left in x_T, not {name!r}")
        self.name = name
        self.divides = divides
        self.schedule = schedule
        self.learned_variance = learned_variance
        self._output_scale = TimestepTable(((1 - schedule.alphas_cumprod) / schedule.betas).sqrt())
        noise = 1 - schedule.alphas_cumprod
        self._of_step = TimestepTable((schedule.betas / noise).sqrt())
        self._of_others = TimestepTable((1 - schedule.betas / noise).clamp(min=0).sqrt())

    def error_of_x0(self) -> Tensor:
        """‖target - estimate‖² as a multiple of ‖x_0 - x̂_0‖², float64 (T,): SNR for ε, SNR + 1 for v."""
        snr = self.schedule.alphas_cumprod / (1 - self.schedule.alphas_cumprod)
        if self.name == "step_epsilon":
            return snr * self.schedule.betas / (1 - self.schedule.alphas_cumprod)
        return {"x0": torch.ones_like(snr), "v": snr + 1}.get(self.name, snr)

    def target(self, x0: Tensor, noise: Tensor, t: Tensor, other: Tensor | None = None) -> Tensor:
        """What `estimate` should be: of x0's shape, for images x0, noise ε and indices t (B,).

        Of "step_epsilon" it is ε_t = √(β_t/(1-ᾱ_t)) ε + √(1-β_t/(1-ᾱ_t)) ω: given ε, the last step's noise is known
        up to an independent ω ~ N(0, I), `other`.
        """
        if self.name == "step_epsilon":
            assert other is not None
            return self._of_step.at(t, x0) * noise + self._of_others.at(t, x0) * other
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

    def split(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """The network's output as what it predicts, and the share of a learned variance (see `Denoised`), or None.

        The second half of the channels is in [-1, 1] where the share is in [0, 1] (Nichol & Dhariwal 2021).
        """
        if not self.learned_variance:
            return output, None
        predicted, variance = output.chunk(2, dim=1)
        return predicted, (variance + 1) / 2

    def x0(self, estimate: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """x̂_0 of an `estimate` at indices t (B,)."""
        signal, sigma = self.schedule.levels(t, like=x_t)
        if self.name == "x0":
            return estimate
        if self.name == "v":
            return signal * x_t - sigma * estimate
        epsilon = self._output_scale.at(t, x_t) * estimate if self.name == "step_epsilon" else estimate
        return (x_t - sigma * epsilon) / signal

    def denoiser(self, network: Network) -> Denoiser:
        """The denoiser that this network is under this prediction."""

        def denoise(x_t: Tensor, t: int) -> Denoised:
            indices = torch.full((len(x_t),), t, device=x_t.device)
            output, share = self.split(network(x_t, indices).to(x_t.dtype))
            estimate = self.estimate(output, indices)
            if self.name == "step_epsilon":
                estimate = estimate * self._output_scale.at(indices, estimate)
            # numbers of the host, so that no step waits for the device
            alpha_bar = self.schedule.alpha_bar(t)
            signal, sigma = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
            # two operations each, not three: on a GPU with a small network every one counts
            if self.name == "x0":
                return Denoised(estimate, torch.sub(x_t, estimate, alpha=signal).div_(sigma), share)
            if self.name == "v":
                x0 = (signal * x_t).sub_(estimate, alpha=sigma)
                return Denoised(x0, (sigma * x_t).add_(estimate, alpha=signal), share)
            return Denoised(torch.sub(x_t, estimate, alpha=sigma).div_(signal), estimate, share)

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
