"""Samplers: walks from noise to data along a path of timesteps.

The one-step ones stand here: a rule turns a pair (ᾱ_t, ᾱ_prev) into the coefficients of one step,

    x_prev = of_x · x_t + of_x0 · x̂_0 + of_epsilon · ε̂ + sigma · z,      z ~ N(0, I),

in float64 on the host. Those that look at more than one network call a step are in `diffexp.diffusion.solvers`.
A sampler knows nothing of networks, clipping or devices.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from diffexp.diffusion.paths import Path
from diffexp.diffusion.predictions import Denoised, Denoiser
from diffexp.diffusion.schedules import Schedule


@dataclass(frozen=True)
class State:
    """Where a sampler is after one step: x at index t (-1: the data), and the x̂_0 that led there."""

    t: int
    x: Tensor
    x0: Tensor


class Sampler(Protocol):
    """Walks a path."""

    def walk(
        self, denoiser: Denoiser, schedule: Schedule, path: Path, x: Tensor, noise: Callable[[], Tensor]
    ) -> Iterator[State]:
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
class Step:
    """The coefficients of one step."""

    of_x: float
    of_x0: float
    of_epsilon: float
    sigma: float


class OneStep(ABC):
    """A sampler whose steps know of nothing before them."""

    @abstractmethod
    def step(self, alpha_bar: float, alpha_bar_prev: float) -> Step:
        """Coefficients of the step from a level ᾱ_t to ᾱ_prev > ᾱ_t; ᾱ_prev = 1 is the data."""

    def walk(
        self, denoiser: Denoiser, schedule: Schedule, path: Path, x: Tensor, noise: Callable[[], Tensor]
    ) -> Iterator[State]:
        """See `Sampler.walk`."""
        check_start(schedule, path)
        for t, t_prev in path:
            step = self.step(schedule.alpha_bar(t), schedule.alpha_bar(t_prev))
            denoised = denoiser(x, t)
            x = combine((step.of_x, x), (step.of_x0, denoised.x0), (step.of_epsilon, denoised.epsilon))
            if step.sigma > 0:
                spread = self.spread(step, schedule.alpha_bar(t), schedule.alpha_bar(t_prev), denoised)
                x.add_(noise(), alpha=spread) if isinstance(spread, float) else x.addcmul_(spread, noise())
            yield State(t_prev, x, denoised.x0)

    def spread(self, step: Step, alpha_bar: float, alpha_bar_prev: float, denoised: Denoised) -> float | Tensor:
        """The standard deviation of a step's noise; `step.sigma` where the network has no say in it."""
        return step.sigma


@dataclass(frozen=True)
class DDPM(OneStep):
    """Ancestral sampling (Ho et al. 2020, algorithm 2):

        x_{t-1} = (x_t - β_t/√(1-ᾱ_t) · ε̂)/√α_t + σ_t z
                = √α_t (1-ᾱ_{t-1})/(1-ᾱ_t) · x_t + √ᾱ_{t-1} β_t/(1-ᾱ_t) · x̂_0 + σ_t z      (eq. 7).

    The second form is computed, which holds where ᾱ_t = 0 too. On a path that leaves timesteps out, α_t is ᾱ_t/ᾱ_prev
    and β_t is 1-α_t (Nichol & Dhariwal 2021).

    Args:
        variance: σ_t² is "fixed_small" β̃_t = β_t (1-ᾱ_{t-1})/(1-ᾱ_t), "fixed_large" β_t, "none" 0 (the lecture notes'
            deterministic recursion), or "learned" β_t^v β̃_t^(1-v) with the network's share v (Nichol & Dhariwal 2021,
            eq. 15). The last step adds no noise.
    """

    variance: Literal["fixed_small", "fixed_large", "none", "learned"] = "fixed_large"

    def step(self, alpha_bar: float, alpha_bar_prev: float) -> Step:
        """Coefficients of one step."""
        alpha = alpha_bar / alpha_bar_prev
        beta = 1 - alpha
        variance = {
            "fixed_small": beta * (1 - alpha_bar_prev) / (1 - alpha_bar),
            "fixed_large": beta if alpha_bar_prev < 1 else 0.0,
            "none": 0.0,
            "learned": beta if alpha_bar_prev < 1 else 0.0,
        }[self.variance]
        return Step(
            of_x=alpha**0.5 * (1 - alpha_bar_prev) / (1 - alpha_bar),
            of_x0=alpha_bar_prev**0.5 * beta / (1 - alpha_bar),
            of_epsilon=0.0,
            sigma=variance**0.5,
        )

    def spread(self, step: Step, alpha_bar: float, alpha_bar_prev: float, denoised: Denoised) -> float | Tensor:
        """Of a learned variance, between the two fixed ones."""
        share = denoised.variance_share
        if self.variance != "learned" or share is None:
            return step.sigma
        small_of_large = (1 - alpha_bar_prev) / (1 - alpha_bar)
        return step.sigma * small_of_large ** (0.5 * (1 - share))


@dataclass(frozen=True)
class DDIM(OneStep):
    """Denoising diffusion implicit models (Song et al. 2021, eq. 12):

        x_prev = √ᾱ_prev · x̂_0 + √(1-ᾱ_prev-σ²) · ε̂ + σ z,
        σ(η)   = η √((1-ᾱ_prev)/(1-ᾱ_t)) √(1-ᾱ_t/ᾱ_prev)      (eq. 16).

    η = 0 is deterministic; η = 1 over all T steps is DDPM with fixed_small variance.

    Args:
        eta: η in [0, 1]; multiplies the standard deviation.
        sigma_hat: add the larger noise σ̂ = √(1-ᾱ_t/ᾱ_prev) while the mean keeps η = 1: over all T steps
            DDPM with fixed_large variance. The last step adds no noise.
    """

    eta: float = 0.0
    sigma_hat: bool = False

    def step(self, alpha_bar: float, alpha_bar_prev: float) -> Step:
        """Coefficients of one step."""
        variance_hat = 1 - alpha_bar / alpha_bar_prev
        sigma = self.eta * ((1 - alpha_bar_prev) / (1 - alpha_bar) * variance_hat) ** 0.5
        noise = variance_hat**0.5 if self.sigma_hat and alpha_bar_prev < 1 else sigma
        return Step(
            of_x=0.0,
            of_x0=alpha_bar_prev**0.5,
            of_epsilon=max(0.0, 1 - alpha_bar_prev - sigma**2) ** 0.5,
            sigma=noise,
        )


def combine(*terms: tuple[float, Tensor]) -> Tensor:
    """Σ coefficient · tensor, one fused multiply-add a term, none for a coefficient of 0."""
    (first, tensor), *rest = [term for term in terms if term[0] != 0]
    total = tensor * first
    for coefficient, each in rest:
        total.add_(each, alpha=coefficient)
    return total
