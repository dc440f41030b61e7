"""Likelihood of images in bits per dimension, by the variational bound and by the probability-flow ODE.

`bound` estimates the bound of Ho et al. 2020, eq. 5. `ode` integrates the instantaneous change of variables of
Song et al. 2021b, appendix D.2.
"""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from diffexp.diffusion.bound import Bound
from diffexp.diffusion.paths import Path
from diffexp.diffusion.predictions import Denoiser
from diffexp.diffusion.schedules import Schedule

# Levels are 1/127.5 apart in [-1, 1]; this converts a density on [-1, 1] to a probability per level.
_BITS_OF_A_LEVEL = math.log2(127.5)


def bound(
    terms: Bound,
    estimate: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]],
    x0: Tensor,
    count: int,
    draw: Callable[[], Tensor],
) -> Tensor:
    """Estimate the variational bound of each image, in bits per dimension (Ho et al. 2020, eq. 5).

    With count = T the sum has every term. With fewer terms it is an unbiased estimate: each of the `strata` contributes
    one randomly chosen timestep, weighted by the length of the stratum.

    Args:
        terms: the terms of the model's schedule and variance.
        estimate: (x_t, t (B,)) → (x̂_0, v of a learned variance or None).
        x0: x_0 in [-1, 1], on 256 levels, shape (B, C, H, W).
        count: number of terms, in [1, T]; each costs one network call. From 2 on, t = 0 is always included.
        draw: returns fresh N(0, I) of x0's shape at each call.

    Returns:
        Bits per dimension, shape (B,).
    """
    schedule = terms.schedule
    offset = torch.special.ndtr(draw().flatten(1)[:, 0].double())  # uniform in (0, 1), one for each image
    total = terms.prior(x0)
    for stratum in strata(schedule.timesteps, count):
        t = stratum.start + (offset * len(stratum)).long().clamp_(max=len(stratum) - 1)
        x_t = schedule.add_noise(x0, draw(), t)
        total += len(stratum) * terms.term(x0, x_t, t, *estimate(x_t, t))
        offset = 1 - offset  # antithetic: the terms decrease with t, so errors of adjacent strata partly cancel
    return total


def strata(timesteps: int, count: int) -> list[range]:
    """Partition the timesteps 0 … T-1 into `count` consecutive ranges of geometrically growing length (at least 1).

    The terms at the lowest t are by far the largest. The ranges of length 1 are therefore at the low end, so that every
    estimate includes these terms exactly; from count = 2 on this includes t = 0.

    Args:
        timesteps: T, the number of timesteps.
        count: number of ranges, in [1, T]; 1 gives a single range of all timesteps.
    """
    ends = [max(run, round(timesteps ** ((run - 1) / (count - 1)))) for run in range(1, count)]
    return [range(start, stop) for start, stop in itertools.pairwise([0, *ends, timesteps])]


def dequantised(x0: Tensor, normal: Tensor) -> Tensor:
    """Dequantise images: add noise uniform over each pixel's level (Theis et al. 2016).

    Args:
        x0: images in [-1, 1], on 256 levels.
        normal: N(0, I) of the same shape, whose quantiles are the uniform noise.
    """
    uniform: Tensor = torch.special.ndtr(normal)
    return x0 + (uniform - 0.5) / 127.5


def ode(denoiser: Denoiser, schedule: Schedule, path: Path, images: Tensor, probe: Tensor) -> Tensor:
    """Compute -log₂ p of each image, in bits per dimension, under the probability-flow ODE from N(0, I) to the data.

    With the angle φ of the noise level, √ᾱ = cos φ and √(1-ᾱ) = sin φ, the ODE and the change of log-density are
    (Song et al. 2021b, appendix D.2)::

        dx/dφ = v̂ = cos φ ε̂ - sin φ x̂_0,        d log p/dφ = -∇·v̂

    v̂ is bounded for any schedule. Heun's method integrates both from the path's lowest noise level to its highest. At
    the lowest level, the images are taken to be x/√ᾱ. Hutchinson's estimator uᵀ (∂v̂/∂x) u gives the divergence.
    For dequantised images the result is, on average, an upper bound on the bits per dimension of the levels.

    Args:
        denoiser: the denoiser; it must be differentiable with respect to x.
        schedule: the noise schedule, which gives ᾱ.
        path: pairs (t, t_prev), see `diffexp.diffusion.paths`. Each t except the lowest costs two network calls.
        images: dequantised images, shape (B, C, H, W).
        probe: u, same shape, with elements ±1.

    Returns:
        Bits per dimension, float64 (B,).
    """
    levels = [(t, math.acos(schedule.alpha_bar(t) ** 0.5)) for t, _ in reversed(path)]
    change = torch.zeros(len(images), dtype=torch.float64, device=images.device)
    x = math.cos(levels[0][1]) * images
    for (t, angle), (t_next, angle_next) in itertools.pairwise(levels):
        width = angle_next - angle
        slope, divergence = _slope(denoiser, t, angle, x, probe)
        ahead, divergence_ahead = _slope(denoiser, t_next, angle_next, x + width * slope, probe)
        x = x + width / 2 * (slope + ahead)
        change += width / 2 * (divergence + divergence_ahead)
    dim = images[0].numel()
    normal = x.double().square().flatten(1).sum(1) / -2 - dim * 0.5 * math.log(2 * math.pi)
    nats: Tensor = normal + change + dim * math.log(math.cos(levels[0][1]))
    return _BITS_OF_A_LEVEL - nats / (dim * math.log(2))


def _slope(denoiser: Denoiser, t: int, angle: float, x: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
    """Compute v̂ at x, and Hutchinson's estimate of its divergence (B,)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        denoised = denoiser(x, t)
        v = math.cos(angle) * denoised.epsilon - math.sin(angle) * denoised.x0
        (gradient,) = torch.autograd.grad((v * probe).sum(), x)
    return v.detach(), (gradient * probe).flatten(1).sum(1).double()
