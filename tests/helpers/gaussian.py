"""x_0 ~ N(0.3, 0.5²): the denoiser is known, and what each sampler makes of it has a closed form."""

import torch
from torch import Tensor

from diffexp.diffusion.paths import Path
from diffexp.diffusion.predictions import Denoised
from diffexp.diffusion.samplers.base import Sampler
from diffexp.diffusion.schedules import Schedule

MEAN, STD = 0.3, 0.5
STDS = (0.05, 0.2, 0.5, 1.0, 3.0)  # from narrow to wide


def gaussian_denoiser(schedule: Schedule, mean=MEAN, std=STD):
    """E[x_0 | x_t] and the ε that goes with it; mean and std may be tensors that broadcast with x_t."""

    def denoise(x_t, t):
        alpha_bar = schedule.alpha_bar(t)
        signal = alpha_bar**0.5
        gain = signal * std**2 / (alpha_bar * std**2 + 1 - alpha_bar)
        x0 = mean + gain * (x_t - signal * mean)
        return Denoised(x0, (x_t - signal * x0) / (1 - alpha_bar) ** 0.5)

    return denoise


def errors_of_std(sampler: Sampler, schedule: Schedule, path: Path) -> Tensor:
    """Of samples of N(0, s²) for each s of `STDS`, over s; started from the right one. An exact solver has none."""
    wanted = torch.tensor(STDS, dtype=torch.float64)[:, None]

    def denoise(x_t: Tensor, t: int) -> Denoised:
        alpha_bar = schedule.alpha_bar(t)
        x0 = alpha_bar**0.5 * wanted**2 / (alpha_bar * wanted**2 + 1 - alpha_bar) * x_t
        return Denoised(x0, (x_t - alpha_bar**0.5 * x0) / (1 - alpha_bar) ** 0.5)

    start = schedule.alpha_bar(path[0][0])
    units = iter(torch.eye(len(path) + 1, dtype=torch.float64))  # each source of noise on its own
    x = (start * wanted**2 + 1 - start).sqrt() * next(units)
    *_, state = sampler.trajectory(denoise, schedule, path, x, lambda: next(units).expand_as(x))
    return (state.x.norm(dim=1) / wanted[:, 0] - 1).abs()
