"""Parametrisations: what the network predicts, and the x̂_0 and ε̂ that follow.

All are reparametrisations of one model. With a = √ᾱ_t and s = √(1-ᾱ_t), x_t = a x_0 + s ε::

    prediction       target of the network    denoiser
    epsilon          ε                        ε̂ = output
    x0               x_0                      x̂_0 = output
    v                a ε - s x_0              x̂_0 = a x_t - s output,  ε̂ = s x_t + a output
    scaled_epsilon   ε                        ε̂ = √((1-ᾱ_t)/β_t) · output
    step_epsilon     ε_t                      ε̂ = √((1-ᾱ_t)/β_t) · output

- epsilon: Ho et al. 2020.
- v: Salimans & Ho 2022.
- scaled_epsilon: the lecture notes; the reverse step is x_{t-1} = (x_t - √β_t · output)/√α_t.
- step_epsilon: their first, un-merged loss. ε_t is the noise of the last forward step, x_t = √α_t x_{t-1} + √β_t ε_t.

The training loss compares `Prediction.estimate` with `Prediction.target`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from diffexp.diffusion.schedules import Schedule, TimestepTable

PREDICTIONS = ("epsilon", "x0", "v", "scaled_epsilon", "step_epsilon")

# (x_t (B, C, H, W), indices t (B,)) → output (B, C, H, W), or (B, 2C, H, W) with a learned variance.
Network = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Denoised:
    """The estimates of a denoiser at (x_t, t); x_t = √ᾱ_t x0 + √(1-ᾱ_t) epsilon holds.

    Attributes:
        x0: x̂_0, shape (B, C, H, W).
        epsilon: ε̂, same shape.
        variance_share: v of a learned variance, same shape, or None: log σ_t² = v log β_t + (1-v) log β̃_t.
    """

    x0: Tensor
    epsilon: Tensor
    variance_share: Tensor | None = None


class Denoiser(Protocol):
    """A denoiser, as samplers call it: (x_t (B, C, H, W), one index t for the batch) → x̂_0 and ε̂."""

    def __call__(self, x_t: Tensor, t: int) -> Denoised:
        """Return x̂_0 and ε̂, both with the shape and dtype of x_t."""
        ...


class Prediction:
    """One parametrisation on one noise schedule.

    Args:
        name: one of `PREDICTIONS`.
        schedule: the noise schedule.
        learned_variance: whether the network has 2C output channels, the second half of which gives the variance.

    Attributes:
        divides: whether x̂_0 = (x_t - √(1-ᾱ_t) ε̂)/√ᾱ_t, which divides the network's error by √ᾱ_t.

    Raises:
        ValueError: if the name is unknown, or predicts the noise on a schedule with ᾱ_T = 0.
    """

    def __init__(self, name: str, schedule: Schedule, *, learned_variance: bool = False) -> None:
        if name not in PREDICTIONS:
            raise ValueError(f"prediction: expected one of {', '.join(PREDICTIONS)}, got {name!r}.")
        divides = name not in ("x0", "v")
        if divides and schedule.terminal_signal == 0:
            raise ValueError(f"prediction: expected x0 or v with zero terminal SNR, got {name!r}.")
        self.name = name
        self.divides = divides
        self.schedule = schedule
        self.learned_variance = learned_variance
        self._output_scale = TimestepTable(((1 - schedule.alphas_cumprod) / schedule.betas).sqrt())
        noise = 1 - schedule.alphas_cumprod
        self._of_step = TimestepTable((schedule.betas / noise).sqrt())
        self._of_others = TimestepTable((1 - schedule.betas / noise).clamp(min=0).sqrt())

    def error_of_x0(self) -> Tensor:
        """Return the factor ‖target - estimate‖²/‖x_0 - x̂_0‖², float64 (T,).

        It is 1 for x_0, SNR for ε, SNR + 1 for v, and SNR β_t/(1-ᾱ_t) for "step_epsilon".
        """
        snr = self.schedule.alphas_cumprod / (1 - self.schedule.alphas_cumprod)
        if self.name == "step_epsilon":
            return snr * self.schedule.betas / (1 - self.schedule.alphas_cumprod)
        return {"x0": torch.ones_like(snr), "v": snr + 1}.get(self.name, snr)

    def target(self, x0: Tensor, noise: Tensor, t: Tensor, other: Tensor | None = None) -> Tensor:
        """Return the regression target of `estimate`.

        For "step_epsilon" it is ε_t = √(β_t/(1-ᾱ_t)) ε + √(1-β_t/(1-ᾱ_t)) ω: given ε, the noise of the last forward
        step is known up to an independent ω ~ N(0, I).

        Args:
            x0: x_0, shape (B, C, H, W).
            noise: ε, same shape.
            t: indices, int64 (B,).
            other: ω, same shape; required for "step_epsilon".

        Returns:
            The target, same shape as x0.
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
        """Scale the network's output (B, C, H, W) at the indices t (B,) like its target."""
        if self.name != "scaled_epsilon":
            return output
        return output * self._output_scale.at(t, output)

    def split(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """Split the network's output into the prediction and the v of a learned variance (else None), see `Denoised`.

        v is in [0, 1] where the second half of the channels is in [-1, 1] (Nichol & Dhariwal 2021).
        """
        if not self.learned_variance:
            return output, None
        predicted, variance = output.chunk(2, dim=1)
        return predicted, (variance + 1) / 2

    def x0(self, estimate: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return x̂_0 for an `estimate` (B, C, H, W) of noised images x_t at the indices t (B,)."""
        signal, sigma = self.schedule.levels(t, like=x_t)
        if self.name == "x0":
            return estimate
        if self.name == "v":
            return signal * x_t - sigma * estimate
        epsilon = self._output_scale.at(t, x_t) * estimate if self.name == "step_epsilon" else estimate
        return (x_t - sigma * epsilon) / signal

    def denoiser(self, network: Network) -> Denoiser:
        """Return the denoiser that a network defines under this parametrisation."""

        def denoise(x_t: Tensor, t: int) -> Denoised:
            indices = torch.full((len(x_t),), t, device=x_t.device)
            output, share = self.split(network(x_t, indices).to(x_t.dtype))
            estimate = self.estimate(output, indices)
            if self.name == "step_epsilon":
                estimate = estimate * self._output_scale.at(indices, estimate)
            # Python floats: a step does not synchronise with the device
            alpha_bar = self.schedule.alpha_bar(t)
            signal, sigma = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
            # two kernels each, not three: with a small network on a GPU, launches dominate
            if self.name == "x0":
                return Denoised(estimate, torch.sub(x_t, estimate, alpha=signal).div_(sigma), share)
            if self.name == "v":
                x0 = (signal * x_t).sub_(estimate, alpha=sigma)
                return Denoised(x0, (sigma * x_t).add_(estimate, alpha=signal), share)
            return Denoised(torch.sub(x_t, estimate, alpha=sigma).div_(signal), estimate, share)

        return denoise


def clipped(denoiser: Denoiser, schedule: Schedule, quantile: float | None = None) -> Denoiser:
    """Clip x̂_0 of a denoiser to the range of images, and recompute ε̂ from it.

    Args:
        denoiser: the denoiser to wrap.
        schedule: the noise schedule, which gives ᾱ.
        quantile: None clips to [-1, 1]. A number q in (0, 1] is dynamic thresholding (Saharia et al. 2022, section
            2.3): each image's limit is s = max(1, q-quantile of `|x̂_0|`); x̂_0 is clipped to [-s, s] and divided by s.
    """

    def denoise(x_t: Tensor, t: int) -> Denoised:
        denoised = denoiser(x_t, t)
        x0 = denoised.x0.clamp(-1, 1) if quantile is None else _thresholded(denoised.x0, quantile)
        alpha_bar = schedule.alpha_bar(t)
        epsilon = torch.sub(x_t, x0, alpha=alpha_bar**0.5).div_((1 - alpha_bar) ** 0.5)
        return replace(denoised, x0=x0, epsilon=epsilon)

    return denoise


def _thresholded(x0: Tensor, quantile: float) -> Tensor:
    ordered = x0.flatten(1).abs().sort(dim=1).values  # torch.quantile is limited to 2²⁴ elements
    below, part = divmod(quantile * (ordered.shape[1] - 1), 1)
    limit = ordered[:, int(below)].lerp(ordered[:, math.ceil(below + part)], part).clamp_(min=1)
    limit = limit.view(-1, *[1] * (x0.ndim - 1))
    return x0.clamp(-limit, limit).div_(limit)
