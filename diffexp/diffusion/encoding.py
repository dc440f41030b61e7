"""The deterministic ODE run backwards: from an image to its noise (Song et al. 2021, section 5.4)."""

from torch import Tensor

from diffexp.diffusion.paths import Path
from diffexp.diffusion.predictions import Denoiser
from diffexp.diffusion.samplers.base import combine
from diffexp.diffusion.schedules import Schedule


def encode(denoiser: Denoiser, schedule: Schedule, path: Path, x0: Tensor) -> Tensor:
    """x_T of images x0, shape (B, C, H, W): DDIM's steps with η = 0 taken from t_prev to t,

        x_t = √ᾱ_t x̂_0(x_prev, t_prev) + √(1-ᾱ_t) ε̂(x_prev, t_prev);

    the first, from the data, asks the denoiser at the lowest t. Decode with `DDIM().trajectory` on the same path.

    Args:
        denoiser: without clipping, which cannot be run backwards.
        schedule: gives ᾱ.
        path: pairs (t, t_prev).
        x0: images.
    """
    x = x0
    for t, t_prev in reversed(path):
        denoised = denoiser(x, max(t_prev, path[-1][0]))
        alpha_bar = schedule.alpha_bar(t)
        from_data = denoised.x0 if t_prev >= 0 else x0
        x = combine((alpha_bar**0.5, from_data), ((1 - alpha_bar) ** 0.5, denoised.epsilon))
    return x
