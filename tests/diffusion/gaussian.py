"""x_0 ~ N(0.3, 0.5²): the denoiser is known, and what each sampler makes of it has a closed form."""

from diffexp.diffusion.predictions import Denoised
from diffexp.diffusion.schedules import Schedule

MEAN, STD = 0.3, 0.5


def gaussian_denoiser(schedule: Schedule):
    """E[x_0 | x_t] and the ε that goes with it."""

    def denoise(x_t, t):
        alpha_bar = schedule.alpha_bar(t)
        signal = alpha_bar**0.5
        gain = signal * STD**2 / (alpha_bar * STD**2 + 1 - alpha_bar)
        x0 = MEAN + gain * (x_t - signal * MEAN)
        return Denoised(x0, (x_t - signal * x0) / (1 - alpha_bar) ** 0.5)

    return denoise
