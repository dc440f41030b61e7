"""The variational bound on -log p(x_0), term by term, in bits per dimension (Ho et al. 2020, eq. 5).

The terms are::

    L_T     = KL(q(x_T | x_0) ‖ N(0, I))                                        `Bound.prior`
    L_{t-1} = KL(q(x_{t-1} | x_t, x_0) ‖ p(x_{t-1} | x_t))                      `Bound.term` at t ≥ 1
    L_0     = -log p(x_0 | x_1), a Gaussian discretised to 256 levels           `Bound.term` at t = 0

The forward posterior is (eq. 6, 7)::

    q(x_{t-1} | x_t, x_0) = N(μ̃_t(x_t, x_0), β̃_t I)
    μ̃_t(x_t, x_0) = √ᾱ_{t-1} β_t/(1-ᾱ_t) x_0 + √α_t (1-ᾱ_{t-1})/(1-ᾱ_t) x_t
    β̃_t = (1-ᾱ_{t-1})/(1-ᾱ_t) β_t

The model's p(x_{t-1} | x_t) = N(μ̃_t(x_t, x̂_0), σ_t² I) has x̂_0 in place of x_0 and its own σ_t² in place of β̃_t.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.special import log_ndtr

from diffexp.diffusion.schedules import Schedule, TimestepTable

Variance = Literal["fixed_small", "fixed_large", "learned"]

_LEVELS = 256  # levels of a pixel
_SMALLEST = 1e-12  # floor of a probability, to avoid log 0


class Bound:
    """The terms of the bound for one schedule and one reverse variance.

    Args:
        schedule: the noise schedule; it must not have zero terminal SNR.
        variance: σ_t². "fixed_small" is β̃_t and "fixed_large" is β_t. "learned" is β_t^v β̃_t^(1-v), where the network
            predicts v in [0, 1] (Nichol & Dhariwal 2021, eq. 15). At t = 0, where β̃_t = 0, β̃ of t = 1 replaces it.
    """

    def __init__(self, schedule: Schedule, variance: Variance) -> None:
        self.schedule = schedule
        self.variance = variance
        alpha_bar, beta, alpha = schedule.alphas_cumprod, schedule.betas, schedule.alphas
        before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
        small = beta * (1 - before) / (1 - alpha_bar)
        small[0] = small[1] if len(small) > 1 else beta[0]
        self._coef_x0 = TimestepTable(before.sqrt() * beta / (1 - alpha_bar))
        self._coef_x = TimestepTable(alpha.sqrt() * (1 - before) / (1 - alpha_bar))
        self._log_small = TimestepTable(small.log())
        large = beta.clone()
        large[0] = small[0]
        self._log_large = TimestepTable((beta if variance == "learned" else large).log())

    def term(self, x0: Tensor, x_t: Tensor, t: Tensor, estimate: Tensor, share: Tensor | None = None) -> Tensor:
        """Compute each image's term at its index t.

        Args:
            x0: x_0 in [-1, 1], on 256 equally spaced levels, shape (B, C, H, W).
            x_t: the noised images, same shape.
            t: indices, int64 (B,).
            estimate: x̂_0, same shape as x0.
            share: v in [0, 1], same shape as x0; required for the "learned" variance.

        Returns:
            Bits per dimension, shape (B,).
        """
        mean = self._coef_x0.at(t, x0) * estimate + self._coef_x.at(t, x0) * x_t
        log_variance = self.log_variance(t, x0, share)
        true_mean = self._coef_x0.at(t, x0) * x0 + self._coef_x.at(t, x0) * x_t
        apart = _gaussian_kl(true_mean, self._log_small.at(t, x0), mean, log_variance)
        decoded = -log_probability_of_levels(x0, mean, (0.5 * log_variance).exp())
        nats = torch.where((t == 0).view(-1, *[1] * (x0.ndim - 1)), decoded, apart)
        return nats.flatten(1).mean(1) / math.log(2)

    def prior(self, x0: Tensor) -> Tensor:
        """Compute L_T of each image x_0 (B, C, H, W), in bits per dimension, shape (B,)."""
        alpha_bar = self.schedule.alpha_bar(self.schedule.timesteps - 1)
        log_variance = torch.full_like(x0, math.log1p(-alpha_bar))
        zero = torch.zeros_like(x0)
        return _gaussian_kl(alpha_bar**0.5 * x0, log_variance, zero, zero).flatten(1).mean(1) / math.log(2)

    def log_variance(self, t: Tensor, like: Tensor, share: Tensor | None = None) -> Tensor:
        """Return log σ_t² at the indices t (B,), broadcastable to `like`.

        Args:
            t: indices, int64 (B,).
            like: a tensor (B, …) that gives dtype and number of dimensions.
            share: v in [0, 1], for the "learned" variance.
        """
        small, large = self._log_small.at(t, like), self._log_large.at(t, like)
        if self.variance == "learned":
            assert share is not None
            return share * large + (1 - share) * small
        return small if self.variance == "fixed_small" else large


def _gaussian_kl(mean: Tensor, log_variance: Tensor, other: Tensor, other_log_variance: Tensor) -> Tensor:
    """Compute the elementwise KL(N(mean, e^log_variance) ‖ N(other, e^other_log_variance)), in nats."""
    ratio = log_variance - other_log_variance
    return 0.5 * (ratio.exp() - 1 - ratio + (mean - other).square() * (-other_log_variance).exp())


def log_probability_of_levels(x0: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Compute the log-probability of each pixel's level under N(mean, std²), in nats (Ho et al. 2020, eq. 13).

    A level's probability is the mass within half a level of x0. The lowest and highest level extend to ∓∞.

    Args:
        x0: images in [-1, 1], on 256 equally spaced levels.
        mean: of the Gaussian, same shape.
        std: of the Gaussian, broadcastable to x0.

    Returns:
        One value a pixel and channel, same shape as x0.
    """
    half = 1 / (_LEVELS - 1)
    above, below = ((x0 + half - mean) / std), ((x0 - half - mean) / std)
    # Above the mean, both CDFs are near 1 and their difference cancels; the mirrored interval avoids this.
    mirrored = below > 0
    upper, lower = log_ndtr(torch.where(mirrored, -below, above)), log_ndtr(torch.where(mirrored, -above, below))
    inside = upper + (-torch.expm1(lower - upper)).clamp(min=_SMALLEST).log()
    at_edge = torch.where(x0 > 1 - half, log_ndtr(-below), log_ndtr(above))
    return torch.where(x0.abs() > 1 - half, at_edge, inside)
