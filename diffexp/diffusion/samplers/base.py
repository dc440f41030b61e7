"""The interface of samplers, and the base class of single-step samplers.

A sampler takes x_T ~ N(0, I) to an image along a path of timesteps (`diffexp.diffusion.paths`). A single-step sampler
maps a pair (ᾱ_t, ᾱ_prev) to the coefficients of one step, in float64 on the host::

    x_prev = coef_x · x_t + coef_x0 · x̂_0 + coef_epsilon · ε̂ + sigma · z,      z ~ N(0, I)

Samplers that use more than one network call in a step share `diffexp.diffusion.samplers.multistep`. Samplers do not
depend on the network, on clipping or on the device.
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
    """The state of a sampler after one step.

    Attributes:
        t: the index reached; -1 is the data.
        x: x_t, shape (B, C, H, W).
        x0: the x̂_0 of the step that led there, same shape.
    """

    t: int
    x: Tensor
    x0: Tensor


class Sampler(Protocol):
    """A sampler: integrates from noise to data along a path."""

    def trajectory(
        self, denoiser: Denoiser, schedule: Schedule, path: Path, x: Tensor, noise: Callable[[], Tensor]
    ) -> Iterator[SamplerState]:
        """Sample along the path from x, yielding the state after every step. The last state's x is the sample.

        Args:
            denoiser: gives x̂_0 and ε̂ at (x_t, t).
            schedule: the noise schedule, which gives ᾱ.
            path: pairs (t, t_prev), see `diffexp.diffusion.paths`.
            x: x_T ~ N(0, I), shape (B, C, H, W); it is not modified.
            noise: returns fresh z ~ N(0, I) of x's shape; called once for each step that adds noise.

        Raises:
            ValueError: if ᾱ_T = 0 and the path does not start at T-1.
        """
        ...


def check_start(schedule: Schedule, path: Path) -> None:
    """Check that a path on a schedule with zero terminal SNR starts at T-1.

    On such schedules x_T = ε only at T-1. From any earlier t, samples keep the mean of the noise, a medium brightness
    (Lin et al. 2024, section 3.3).

    Raises:
        ValueError: if ᾱ = 0 at T-1 and the path starts elsewhere.
    """
    last = schedule.timesteps - 1
    if schedule.alpha_bar(last) == 0 and path[0][0] != last:
        raise ValueError(f"path: expected a start at t = {last}, where the SNR is 0, got t = {path[0][0]}.")


@dataclass(frozen=True)
class StepCoefficients:
    """The coefficients of one step, as defined in this module."""

    coef_x: float
    coef_x0: float
    coef_epsilon: float
    sigma: float


class SingleStepSampler(ABC):
    """A sampler whose steps depend only on the current x_t."""

    @abstractmethod
    def step(self, alpha_bar: float, alpha_bar_prev: float) -> StepCoefficients:
        """Return the coefficients of the step from ᾱ_t to ᾱ_prev > ᾱ_t; ᾱ_prev = 1 is the data."""

    def trajectory(
        self, denoiser: Denoiser, schedule: Schedule, path: Path, x: Tensor, noise: Callable[[], Tensor]
    ) -> Iterator[SamplerState]:
        """Sample along the path from x with one network call a step; see `Sampler.trajectory`."""
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
        """Return the standard deviation of a step's noise: `step.sigma`, unless the network predicts the variance."""
        return step.sigma


def expect_one_of(name: str, value: object, known: Sequence[object]) -> None:
    """Check that a value is one of the known ones.

    Args:
        name: the argument, for the message.
        value: its value.
        known: the valid values.

    Raises:
        ValueError: if not; the message lists the known values.
    """
    if value not in known:
        raise ValueError(f"{name}: expected one of {', '.join(map(str, known))}, got {value!r}.")


def combine(*terms: tuple[float, Tensor]) -> Tensor:
    """Compute Σ coefficient · tensor with one fused multiply-add a term, skipping coefficients of 0."""
    (first, tensor), *rest = [term for term in terms if term[0] != 0]
    total = tensor * first
    for coefficient, each in rest:
        total.add_(each, alpha=coefficient)
    return total
