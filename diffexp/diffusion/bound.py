"""The variational bound on the likelihood, term by term, in bits per dimension (Ho et al. 2020, eq. 5).

    L_T     = KL(q(x_T | x_0) ‖ N(0, I))                                 `prior`
    L_{t-1} = KL(q(x_{t-1} | x_t, x_0) ‖ p(x_{t-1} | x_t))               `term` at t ≥ 1
    L_0     = -log p(x_0 | x_1), a Gaussian cut into the 256 levels      `term` at t = 0

with q(x_{t-1} | x_t, x_0) = N(μ̃(x_t, x_0), β̃_t I) (eq. 6, 7), and the model's p(x_{t-1} | x_t) with x̂_0 for x_0 and
its own σ_t² for β̃_t.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.special import log_ndtr

from diffexp.diffusion.schedules import Schedule, TimestepTable

Variance = Literal["fixed_small", "fixed_large", "learned"]

_LEVELS = 256  # of a pixel
_SMALLEST = 1e-12  # a share, against a logarithm of 0


class Bound:
    """The terms of the bound on one schedule.

    Args:
        schedule: gives ᾱ; without a zero terminal SNR.
        variance: σ_t² is "fixed_small" β̃_t, "fixed_large" β_t, or "learned": β_t^v β̃_t^(1-v) with the network's share
            v in [0, 1] (Nichol & Dhariwal 2021, eq. 15). At t = 0, where β̃ is 0, that of t = 1 stands in.
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
        """The term of each image at its index t: (B,), bits per dimension.

        Args:
            x0: images in [-1, 1], whose pixels are among 256 equal steps, shape (B, C, H, W).
            x_t: their noised ones.
            t: indices (B,).
            estimate: x̂_0, of x0's shape.
            share: v in [0, 1] of x0's shape, of a learned variance.
        """
        mean = self._coef_x0.at(t, x0) * estimate + self._coef_x.at(t, x0) * x_t
        log_variance = self.log_variance(t, x0, share)
        true_mean = self._coef_x0.at(t, x0) * x0 + self._coef_x.at(t, x0) * x_t
        apart = _gaussian_kl(true_mean, self._log_small.at(t, x0), mean, log_variance)
        decoded = -log_probability_of_levels(x0, mean, (0.5 * log_variance).exp())
        nats = torch.where((t == 0).view(-1, *[1] * (x0.ndim - 1)), decoded, apart)
        return nats.flatten(1).mean(1) / math.log(2)

    def prior(self, x0: Tensor) -> Tensor:
        """L_T of each image (B,), bits per dimension."""
        alpha_bar = self.schedule.alpha_bar(self.schedule.timesteps - 1)
        log_variance = torch.full_like(x0, math.log1p(-alpha_bar))
        zero = torch.zeros_like(x0)
        return _gaussian_kl(alpha_bar**0.5 * x0, log_variance, zero, zero).flatten(1).mean(1) / math.log(2)

    def log_variance(self, t: Tensor, like: Tensor, share: Tensor | None = None) -> Tensor:
        """log σ_t² at indices t (B,), of a shape that broadcasts with `like`."""
        small, large = self._log_small.at(t, like), self._log_large.at(t, like)
        if self.variance == "learned":
            assert share is not None
            return share * large + (1 - share) * small
        return small if self.variance == "fixed_small" else large


def _gaussian_kl(mean: Tensor, log_variance: Tensor, other: Tensor, other_log_variance: Tensor) -> Tensor:
    """KL(N(mean, e^log_variance) ‖ N(other, e^other_log_variance)) of each element, in nats."""
    ratio = log_variance - other_log_variance
    return 0.5 * (ratio.exp() - 1 - ratio + (mean - other).square() * (-other_log_variance).exp())


def log_probability_of_levels(x0: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log of the mass that N(mean, std²) has within half a level of x0; the outer levels reach to infinity (eq. 13)."""
    half = 1 / (_LEVELS - 1)
    above, below = ((x0 + half - mean) / std), ((x0 - half - mean) / std)
    # the mass between two points beyond the mean is a difference of two small numbers: take the mirrored ones there
    mirrored = below > 0
    upper, lower = log_ndtr(torch.where(mirrored, -below, above)), log_ndtr(torch.where(mirrored, -above, below))
    inside = upper + (-torch.expm1(lower - upper)).clamp(min=_SMALLEST).log()
    at_edge = torch.where(x0 > 1 - half, log_ndtr(-below), log_ndtr(above))
    return torch.where(x0.abs() > 1 - half, at_edge, inside)
