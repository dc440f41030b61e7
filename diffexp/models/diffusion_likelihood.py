"""Likelihood estimates of a diffusion model: the variational bound, the probability-flow ODE, and the held-out loss."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from diffexp.config.schemas.requests import LikelihoodConfig
from diffexp.config.schemas.samplers import DDPMConfig
from diffexp.diffusion.bound import Bound
from diffexp.diffusion.denoising_error import DenoisingError
from diffexp.diffusion.likelihood import bound, dequantised, ode
from diffexp.diffusion.paths import timestep_path
from diffexp.diffusion.predictions import Prediction
from diffexp.diffusion.schedules import Schedule
from diffexp.rng import Draw


def resolve(wanted: LikelihoodConfig, timesteps: int, *, learned_variance: bool) -> LikelihoodConfig:
    """Limit terms and levels to T, and fill in the variance: the learned one, otherwise that of `DDPMConfig`."""
    usual = DDPMConfig().variance
    assert usual != "none"
    return replace(
        wanted,
        terms=min(wanted.terms or timesteps, timesteps),
        variance=wanted.variance or ("learned" if learned_variance else usual),
        ode_steps=None if wanted.ode_steps is None else min(wanted.ode_steps, timesteps),
    )


def calls(resolved: LikelihoodConfig) -> dict[str, int]:
    """Return one call for each term of the bound, and two for each step of the ODE."""
    assert resolved.terms is not None
    found = {"bound": resolved.terms}
    if resolved.ode_steps is not None:
        found["ode"] = 2 * (resolved.ode_steps - 1)
    return found


def estimate(
    network: Callable[..., Any],
    prediction: Prediction,
    schedule: Schedule,
    x0: Tensor,
    draw: Callable[[], Tensor],
    resolved: LikelihoodConfig,
) -> dict[str, Tensor]:
    """Estimate bits per dimension of images by the bound ("bound") and, with `ode_steps`, by the ODE ("ode").

    Args:
        network: (x_t (B, C, H, W), indices t (B,)) → its output.
        prediction: what the network predicts.
        schedule: the noise schedule.
        x0: images in [-1, 1], shape (B, C, H, W).
        draw: gives standard normal noise of the shape of x0.
        resolved: terms, variance and steps, from `resolve`.

    Returns:
        Bits per dimension, shape (B,) each.
    """

    def estimate_x0(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        output, share = prediction.split(network(x_t, t).float())
        return prediction.x0(prediction.estimate(output, t), x_t, t).clamp(-1, 1), share

    assert resolved.variance is not None
    assert resolved.terms is not None
    with torch.no_grad():
        found = {"bound": bound(Bound(schedule, resolved.variance), estimate_x0, x0, resolved.terms, draw)}
    if resolved.ode_steps is not None:
        path = timestep_path(schedule.timesteps, resolved.ode_steps, "logsnr", schedule.alphas_cumprod.tolist())
        x, probe = dequantised(x0, draw()), draw().sign()
        found["ode"] = ode(prediction.denoiser(network), schedule, path, x, probe)
    return found


def held_out(
    network: Callable[..., Any],
    prediction: Prediction,
    error: DenoisingError,
    x0: Tensor,
    draw: Callable[[int], Draw],
) -> tuple[Tensor, Tensor]:
    """Measure the denoising error at fixed levels, and the bound; see `DenoisingError.measure`.

    Args:
        network: (x_t (B, C, H, W), indices t (B,)) → its output.
        prediction: what the network predicts.
        error: of the model's schedule.
        x0: images in [-1, 1], shape (B, C, H, W).
        draw: the random numbers of each draw, of the shape of x0.

    Returns:
        (B, levels) and bits per dimension (B,), float64 on the CPU.
    """

    def estimate(x_t: Tensor, t: Tensor) -> Tensor:
        output, _ = prediction.split(network(x_t, t).float())
        return prediction.x0(prediction.estimate(output, t), x_t, t)

    return error.measure(estimate, x0, draw)
