"""How likely a model finds images, in bits per dimension: by the variational bound, and by the probability-flow ODE."""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from diffexp.diffusion.bound import Bound
from diffexp.diffusion.paths import Path
from diffexp.diffusion.predictions import Denoiser
from diffexp.diffusion.schedules import Schedule

# Pixels lie 1/127.5 apart in [-1, 1]: a density per unit becomes a probability per level.
_BITS_OF_A_LEVEL = math.log2(127.5)


def bound(
    terms: Bound,
    estimate: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]],
    x0: Tensor,
    count: int,
    draw: Callable[[], Tensor],
) -> Tensor:
    """The variational bound of each image (B,), bits per dimension (Ho et al. 2020, eq. 5).

    With fewer than T terms it is an unbiased estimate: one timestep from each of the `strata`, weighted by its length.

    Args:
        terms: of the model's schedule and variance.
        estimate: (x_t, t (B,)) → (x̂_0, share of the variance or None).
        x0: images in [-1, 1] among 256 levels, shape (B, C, H, W).
        count: terms, each a call of the network; T is all, and two are the fewest that include t = 0 each time.
        draw: gives fresh N(0, I) of x0's shape.
    """
    schedule = terms.schedule
    offset = torch.special.ndtr(draw().flatten(1)[:, 0].double())  # uniform, and each image's own
    total = terms.prior(x0)
    for stratum in strata(schedule.timesteps, count):
        t = stratum.start + (offset * len(stratum)).long().clamp_(max=len(stratum) - 1)
        x_t = schedule.add_noise(x0, draw(), t)
        total += len(stratum) * terms.term(x0, x_t, t, *estimate(x_t, t))
        offset = 1 - offset  # the terms fall with t: what one stratum takes too low down, the next takes too high up
    return total


def strata(timesteps: int, count: int) -> list[range]:
    """The timesteps 0 … T-1 in `count` runs whose lengths grow by a constant factor, where that is one or more.

    The lowest terms are by far the largest: as many as that leaves single are computed for every image, t = 0 always.

    Args:
        timesteps: T.
        count: from 1, which leaves all timesteps in one run, to T.
    """
    ends = [max(run, round(timesteps ** ((run - 1) / (count - 1)))) for run in range(1, count)]
    return [range(start, stop) for start, stop in itertools.pairwise([0, *ends, timesteps])]


def dequantised(x0: Tensor, normal: Tensor) -> Tensor:
    """Images moved uniformly within their level, by the quantiles of N(0, I) noise (Theis et al. 2016)."""
    uniform: Tensor = torch.special.ndtr(normal)
    return x0 + (uniform - 0.5) / 127.5


def ode(denoiser: Denoiser, schedule: Schedule, path: Path, images: Tensor, probe: Tensor) -> Tensor:
    """-log₂ p of each image (B,) in bits per dimension, under the ODE that takes N(0, I) to the data.

    With the angle φ of the noise, √ᾱ = cos φ and √(1-ᾱ) = sin φ, the ODE is dx/dφ = v̂ = cos φ ε̂ - sin φ x̂_0, bounded
    wherever the schedule goes, and d log p/dφ = -∇·v̂ along it (Song et al. 2021b, appendix D.2). Both are integrated by
    Heun's method from the path's lowest noise, whose x/√ᾱ the images are taken to be, to its highest. The divergence is
    Hutchinson's estimate uᵀ ∂v̂/∂x u. Of dequantised images it bounds the bits of a level, on average.

    Args:
        denoiser: is differentiated.
        schedule: gives ᾱ.
        path: pairs (t, t_prev); each but the lowest takes two calls.
        images: dequantised, shape (B, C, H, W).
        probe: u of that shape, its elements ±1.
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
    """v̂ at x, and the estimate of its divergence (B,)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        denoised = denoiser(x, t)
        v = math.cos(angle) * denoised.epsilon - math.sin(angle) * denoised.x0
        (gradient,) = torch.autograd.grad((v * probe).sum(), x)
    return v.detach(), (gradient * probe).flatten(1).sum(1).double()
