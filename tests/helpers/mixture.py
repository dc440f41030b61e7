"""A mixture of two Gaussians on a line: its denoiser is known, and so is where the ODE takes every point."""

import math
from bisect import bisect_left

import torch
from torch import Tensor

from diffexp.diffusion.paths import Path
from diffexp.diffusion.predictions import Denoised, Denoiser
from diffexp.diffusion.schedules import Schedule

WEIGHTS, MEANS, STDS = (0.4, 0.6), (-0.5, 0.7), (0.25, 0.35)


def _noised(schedule: Schedule, t: int) -> tuple[Tensor, Tensor, float]:
    """Means and variances of the two at x_t, and √ᾱ_t."""
    alpha_bar = schedule.alpha_bar(t)
    means, stds = torch.tensor(MEANS, dtype=torch.float64), torch.tensor(STDS, dtype=torch.float64)
    return alpha_bar**0.5 * means, alpha_bar * stds**2 + 1 - alpha_bar, alpha_bar**0.5


def mixture_denoiser(schedule: Schedule) -> Denoiser:
    """E[x_0 | x_t], a mean of the two components' weighted by how likely each is, and the ε that goes with it."""
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    stds = torch.tensor(STDS, dtype=torch.float64)

    def denoise(x_t: Tensor, t: int) -> Denoised:
        means, variances, signal = _noised(schedule, t)
        off = x_t[..., None] - means
        likely = (weights.log() - 0.5 * variances.log() - off**2 / (2 * variances)).softmax(-1)
        x0 = (likely * (means / signal + signal * stds**2 / variances * off)).sum(-1)
        return Denoised(x0, (x_t - signal * x0) / math.sqrt(1 - signal**2))

    return denoise


def transported(schedule: Schedule, x: Tensor, t: int, t_end: int) -> Tensor:
    """Where the probability-flow ODE takes x from t to t_end: on a line it keeps every point's quantile."""

    def quantile(at: Tensor, time: int) -> Tensor:
        means, variances, _ = _noised(schedule, time)
        return (torch.tensor(WEIGHTS) * torch.special.ndtr((at[..., None] - means) / variances.sqrt())).sum(-1)

    wanted, low, high = quantile(x, t), torch.full_like(x, -20), torch.full_like(x, 20)
    for _ in range(80):
        middle = (low + high) / 2
        below = quantile(middle, t_end) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return middle


def even_path(schedule: Schedule, steps: int, lowest_noise: float) -> Path:
    """Equal steps of log(ᾱ/(1-ᾱ)) from t = T-1 to where that is `lowest_noise`, and one onto the data."""
    heights = [math.log((1 - each) / each) for each in schedule.alphas_cumprod.tolist()]
    wanted = [heights[-1] + (-lowest_noise - heights[-1]) * i / steps for i in range(steps + 1)]
    visited = [min(bisect_left(heights, height), len(heights) - 1) for height in wanted]
    return list(zip(visited, [*visited[1:], -1], strict=True))
