"""DDIM encoding: integrate the probability-flow ODE from an image to its noise (Song et al. 2021, section 5.4)."""

from torch import Tensor

from diffexp.diffusion.paths import Path
from diffexp.diffusion.predictions import Denoiser
from diffexp.diffusion.samplers.base import combine
from diffexp.diffusion.schedules import Schedule


def encode(denoiser: Denoiser, schedule: Schedule, path: Path, x0: Tensor) -> Tensor:
    """Encode images x_0 into x_T by reversed DDIM steps with η = 0::

        x_t = √ᾱ_t x̂_0(x_prev, t_prev) + √(1-ᾱ_t) ε̂(x_prev, t_prev)

    The first step starts from the data, which has no t: the denoiser is evaluated at the lowest t of the path, and x_0
    replaces x̂_0. `DDIM().trajectory` on the same path decodes x_T.

    Args:
        denoiser: without clipping, because clipping is not invertible.
        schedule: the noise schedule, which gives ᾱ.
        path: pairs (t, t_prev), see `diffexp.diffusion.paths`.
        x0: images in [-1, 1], shape (B, C, H, W).

    Returns:
        x_T, same shape.
    """
    x = x0
    for t, t_prev in reversed(path):
        denoised = denoiser(x, max(t_prev, path[-1][0]))
        alpha_bar = schedule.alpha_bar(t)
        from_data = denoised.x0 if t_prev >= 0 else x0
        x = combine((alpha_bar**0.5, from_data), ((1 - alpha_bar) ** 0.5, denoised.epsilon))
    return x
