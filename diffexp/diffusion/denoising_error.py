r"""The denoising error at fixed noise levels, and the variational bound of the model's own steps from these errors.

With λ = log SNR = log(ᾱ/(1-ᾱ)), the error of the noise in a pixel is that of x_0 times the SNR::

    e(λ) = E (ε̂ - ε)² = SNR E (x̂_0 - x_0)²

With the variance β̃_t ("fixed_small", the posterior's), the bound of Ho et al. 2020, eq. 5, is a sum of these errors
(Kingma et al. 2021, eq. 13), here in nats per dimension::

    L_T + L_0 + ½ Σ_{t≥1} (SNR_{t-1} - SNR_t) E (x̂_0 - x_0)²  =  L_T + L_0 + ½ Σ_{t≥1} (SNR_{t-1}/SNR_t - 1) e(λ_t)

L_0 and the term of t = 1, the largest, are computed exactly. The others take e(λ_t) from the levels, linear in λ; below
the last level the error of x_0 is constant. The bound is thus linear in the errors, with weights that depend on the
schedule alone. x̂_0 is clipped to [-1, 1], as in the other estimates of the bound.

A schedule has few timesteps, and seldom one at a level. Each image takes one of the two timesteps around the level, at
random, so that the mean of λ is the level: an unbiased estimate of e, linear between the timesteps. A level outside the
schedule takes its first or its last timestep.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diffexp.diffusion.bound import Bound
from diffexp.diffusion.schedules import Schedule, TimestepTable
from diffexp.rng import Draw

# λ = 9 is the first timestep of Ho et al.'s schedule. Below -6, e and its part of the bound are under 0.001.
LEVELS: tuple[float, ...] = tuple(float(level) for level in range(9, -7, -1))
CALLS = len(LEVELS) + 2  # network calls for one batch


class DenoisingError:
    """The error at `LEVELS` and the bound, for one schedule.

    Args:
        schedule: the noise schedule.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self._bound = Bound(schedule, "fixed_small")
        alpha_bar = schedule.alphas_cumprod
        self._snr = alpha_bar / (1 - alpha_bar)
        self._snr_at = TimestepTable(self._snr)
        self._log_snr = self._snr[self._snr > 0].log()  # without the last timestep of a zero terminal SNR
        self._of_first, self._of_levels = self._weights()

    def measure(
        self, estimate: Callable[[Tensor, Tensor], Tensor], x0: Tensor, draw: Callable[[int], Draw]
    ) -> tuple[Tensor, Tensor]:
        """Measure the errors of images with `CALLS` network calls.

        Args:
            estimate: (x_t (B, C, H, W), t (B,)) → x̂_0, same shape; the network's.
            x0: x_0 in [-1, 1], on 256 levels, shape (B, C, H, W).
            draw: the random numbers of each of `CALLS` draws, of the shape of x0: one for each level, then those of
                t = 0 and t = 1.

        Returns:
            e at each level, mean over pixels, and the bound in bits per dimension: float64 (B, levels) and (B,), on the
            CPU.
        """

        def noised(number: int, t: Tensor) -> tuple[Tensor, Tensor]:
            x_t = self.schedule.add_noise(x0, draw(number).normals, t)
            return x_t, estimate(x_t, t).clamp(-1, 1)

        errors = []
        for number in range(len(LEVELS)):
            t = self.timesteps(number, draw(number).uniforms[0])
            _, found = noised(number, t)
            errors.append(_squared(found, x0) * self._snr_at.at(t, x0).flatten())
        at_levels = torch.stack(errors, dim=1).cpu().double()
        t = torch.zeros(len(x0), dtype=torch.int64, device=x0.device)
        x_t, found = noised(len(LEVELS), t)
        bits = (self._bound.term(x0, x_t, t, found) + self._bound.prior(x0)).cpu().double()
        nats = at_levels @ self._of_levels
        if self.schedule.timesteps > 1:
            _, found = noised(len(LEVELS) + 1, t + 1)
            nats += self._of_first * _squared(found, x0).cpu().double()
        return at_levels, bits + nats / math.log(2)

    def timesteps(self, number: int, uniforms: Tensor) -> Tensor:
        """Return a timestep for each image, one of the two around a level, so that the mean of λ is the level.

        Args:
            number: the level's index in `LEVELS`.
            uniforms: uniform numbers in [0, 1), shape (B,).

        Returns:
            int64 (B,). The nearest timestep for a level outside the schedule.
        """
        level, log_snr = LEVELS[number], self._log_snr
        after = int((log_snr > level).sum())  # the first timestep at or below the level
        if after in (0, len(log_snr)):
            return torch.full(uniforms.shape, min(after, len(log_snr) - 1), device=uniforms.device)
        above, below = log_snr[after - 1].item(), log_snr[after].item()
        return after - 1 + (uniforms < (above - level) / (above - below)).long()

    def _weights(self) -> tuple[float, Tensor]:
        """Return the weights of the sum over t ≥ 1, in nats: of (x̂_0 - x_0)² at t = 1, and of e at each level."""
        snr, log_snr = self._snr, self._log_snr
        at = torch.tensor(LEVELS, dtype=torch.float64).clamp(log_snr[-1].item(), log_snr[0].item())
        if len(snr) == 1:
            return 0.0, torch.zeros_like(at)
        first = 0.5 * (snr[0] - snr[1]).item()
        if len(log_snr) == 1:
            return first, torch.zeros_like(at)
        # the nodes of the interpolation in ascending λ: the levels below t = 1, then t = 1 itself
        nodes = torch.cat([torch.unique(at[at < log_snr[1]]), log_snr[1:2]])
        of_nodes = torch.zeros_like(nodes)
        weights = 0.5 * (snr[1:-1] - snr[2:])  # of (x̂_0 - x_0)² at t = 2, 3, …
        inside = snr[2:] > nodes[0].exp()
        of_nodes[0] += weights[~inside].sum() / nodes[0].exp()
        position = snr[2:][inside].log()
        after = torch.searchsorted(nodes, position).clamp(min=1)
        share = (position - nodes[after - 1]) / (nodes[after] - nodes[after - 1])
        weight = weights[inside] / snr[2:][inside]
        of_nodes.index_add_(0, after - 1, weight * (1 - share))
        of_nodes.index_add_(0, after, weight * share)
        same = (at[:, None] == nodes[:-1]).double()  # levels outside the schedule share its end
        of_levels = same @ (of_nodes[:-1] / same.sum(0))
        return first + (of_nodes[-1] * snr[1]).item(), of_levels


def _squared(found: Tensor, x0: Tensor) -> Tensor:
    """Return the mean of (x̂_0 - x_0)² over the pixels of each image, shape (B,)."""
    return (found - x0).square().flatten(1).mean(1)
