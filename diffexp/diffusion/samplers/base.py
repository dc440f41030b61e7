"""Samplers: walks from noise to data along a path of timesteps.

The one-step ones stand here: a rule turns a pair (ᾱ_t, ᾱ_prev) into the coefficients of one step,

    x_prev = coef_x · x_t + coef_x0 · x̂_0 + coef_epsilon · ε̂ + sigma · z,      z ~ N(0, I),

in float64 on the host. Those that look at more than one network call a step share
`diffexp.diffusion.samplers.multistep`. A sampler knows nothing of networks, clipping or devices.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from diffexp.diffusion.paths import Path
from diffexp.diffusion.predictions import Denoised, Denoiser
from diffexp.diffusion.schedules import Schedule


@dataclass(frozen=True)
class SamplerState:
    """Where a sampler is after one step: x at index t (-1: the data), and the x̂_0 that led there."""

    t: int
    x: Tensor
    x0: Tensor


class Sampler(Protocol):
    """Walks a path."""

    def trajectory(
        self, denoiser: Denoiser, schedule: Schedule, path: Path, x: Tensor, noise: Callable[[], Tensor]
    ) -> Iterator[SamplerState]:
        """Walk the path from x, yielding the state after every step; the last state's x is the sample.

        Args:
            denoiser: gives x̂_0 and ε̂ at (x_t, t).
            schedule: gives ᾱ.
            path: pairs (t, t_prev), see `diffexp.diffusion.paths`.
            x: x_T ~ N(0, I), shape (B, C, H, W); is not changed.
            noise: each call gives fresh z ~ N(0, I) of x's shape; called once for each step that adds noise.

        Raises:
            ValueError: if the schedule ends in pure noise and the path does not start there.
        """
        ...


def check_start(schedule: Schedule, path: Path) -> None:
    """Refuse a path that skips the only timestep at which x_T ~ N(0, I) is what the network was trained on.

    With a zero terminal SNR, timestep T-1 alone tells the network that it sees noise; from any earlier one the samples
    keep the mean of the noise: medium brightness (Lin et al. 2024, section 3.3).

    Raises:
        ValueError: if ᾱ_{T-1} = 0 and the path starts elsewhere.
    """
    last = schedule.timesteps - 1
    if schedule.alpha_bar(last) == 0 and path[0][0] != last:
        raise ValueError(f"path: expected to start at t = {last}, where the SNR is 0, got t = {path[0][0]}")


@dataclass(frozen=True)
class StepCoefficients:
    """The coefficients of one step."""

    coef_x: float
    coef_x0: float
    coef_epsilon: float
    sigma: float


class SingleStepSampler(ABC):
    """A sampler whose steps know of nothing before them."""

    @abstractmethod
    def step(self, alpha_bar: float, alpha_bar_prev: float) -> StepCoefficients:
        """Coefficients of the step from a level ᾱ_t to ᾱ_prev > ᾱ_t; ᾱ_prev = 1 is the data."""

    def trajectory(
        self, denoiser: Denoiser, schedule: Schedule, path: Path, x: Tensor, noise: Callable[[], Tensor]
    ) -> Iterator[SamplerState]:
        """See `Sampler.trajectory`."""
        check_start(schedule, path)
        for t, t_prev in path:
            step = self.step(schedule.alpha_bar(t), schedule.alpha_bar(t_prev))
            denoised = denoiser(x, t)
            x = combine((step.coef_x, x), (step.coef_x0, denoised.x0), (step.coef_epsilon, denoised.epsilon))
            if step.sigma > 0:
                spread = self.spread(step, schedule.alpha_bar(t), schedule.alpha_bar(t_prev), denoised)
                x.add_(noise(), alpha=spread) if isinstance(spread, float) else x.addcmul_(spread, noise())
            yield SamplerState(t_prev, x, denoised.x0)

    def spread(
        self, step: StepCoefficients, alpha_bar: float, alpha_bar_prev: float, denoised: Denoised
    ) -> float | Tensor:
        """The standard deviation of a step's noise; `step.sigma` where the network has no say in it."""
        return step.sigma


def expect_one_of(name: str, value: object, known: Sequence[object]) -> None:
    """Refuse a value that is not among the known ones.

    Raises:
        ValueError: naming them.
    """
    if value not in known:
        raise ValueError(f"{name}: expected one of {', '.join(map(str, known))}, got {value!r}")


def combine(*terms: tuple[float, Tensor]) -> Tensor:
    """Σ coefficient · tensor, one fused multiply-add a term, none for a coefficient of 0."""
    (first, tensor), *rest = [term for term in terms if term[0] != 0]
    total = tensor * first
    for coefficient, each in rest:
        total.add_(each, alpha=coefficient)
    return total
