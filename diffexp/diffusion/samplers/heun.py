"""Heun's method, the deterministic sampler of EDM (Karras et al. 2022)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from diffexp.diffusion.paths import Path
from diffexp.diffusion.predictions import Denoiser
from diffexp.diffusion.samplers.base import SamplerState, check_start, combine
from diffexp.diffusion.samplers.multistep import Level
from diffexp.diffusion.schedules import Schedule


@dataclass(frozen=True)
class Heun:
    """Heun's method, of second order (Karras et al. 2022, algorithm 1): two network calls a step, one in the last.

    With x̄ = x/√ᾱ and EDM's σ = √(1-ᾱ)/√ᾱ the probability-flow ODE is dx̄/dσ = ε̂. Each step is an Euler step, which is
    DDIM with η = 0, followed by a correction with the mean of ε̂ at both ends.
    """

    def trajectory(
        self, denoiser: Denoiser, schedule: Schedule, path: Path, x: Tensor, noise: Callable[[], Tensor]
    ) -> Iterator[SamplerState]:
        """Sample along the path from x with two network calls a step; see `Sampler.trajectory`."""
        check_start(schedule, path)
        for t, t_prev in path:
            now, then = Level(schedule.alpha_bar(t)), Level(schedule.alpha_bar(t_prev))
            denoised = denoiser(x, t)
            x = combine((then.signal, denoised.x0), (then.sigma, denoised.epsilon))
            if t_prev >= 0 and now.signal > 0:
                width = then.sigma - then.signal * now.sigma / now.signal
                slope = denoiser(x, t_prev).epsilon
                x = combine((1.0, x), (width / 2, slope), (-width / 2, denoised.epsilon))
            yield SamplerState(t_prev, x, denoised.x0)
