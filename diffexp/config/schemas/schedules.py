"""Schemas of the noise schedules. The formulas are in `diffexp.diffusion.schedules`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from diffexp.config.context import Context
from diffexp.config.fields import number
from diffexp.config.registry import Component, Registry

Rescale = Literal["none", "1000/T"]


@dataclass
class ScheduleConfig(Component):
    """A noise schedule. Its builder gets T and returns β, a float64 tensor of shape (T,).

    Keys:
        zero_terminal_snr: shift and rescale √ᾱ so that it ends at 0 and x_T is pure noise (Lin et al. 2024). Requires
            model.prediction v or x0.
    """

    zero_terminal_snr: bool = False


SCHEDULES = Registry("schedule", ScheduleConfig, "diffexp.diffusion.schedules:{name}")


@dataclass
class BetaRangeConfig(ScheduleConfig):
    """A schedule from beta_start to beta_end, values that are meant for T = 1000.

    Keys:
        beta_start: lower end of the range of β.
        beta_end: upper end of the range of β.
        rescale: for another T, 1000/T multiplies every β by 1000/T, so that ᾱ_T stays nearly the same. none changes
            nothing, so that a small T leaves signal in x_T.
    """

    beta_start: float = number(1e-4, above=0, below=1)
    beta_end: float = number(0.02, above=0, below=1)
    rescale: Rescale = "none"

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        if self.beta_end < self.beta_start:
            yield "beta_end", f"expected a number >= beta_start = {self.beta_start}, got {self.beta_end}."
        yield from _rescale_problems(self.rescale, self.beta_end, context)


def _rescale_problems(rescale: str, beta_end: float, context: Context) -> Iterator[tuple[str, str]]:
    timesteps = context.timesteps or 1000
    if rescale == "1000/T" and beta_end * 1000 / timesteps >= 1:
        beta = beta_end * 1000 / timesteps
        yield "rescale", f"expected a last β < 1, got {beta:g} at model.timesteps = {timesteps}. Set rescale to none."


@SCHEDULES.register("linear")
@dataclass
class LinearScheduleConfig(BetaRangeConfig):
    """β_t equally spaced from beta_start to beta_end (Ho et al. 2020)."""

    name: str = "linear"


@SCHEDULES.register("scaled_linear")
@dataclass
class ScaledLinearScheduleConfig(BetaRangeConfig):
    """√β_t equally spaced (Rombach et al. 2022)."""

    name: str = "scaled_linear"


@SCHEDULES.register("sigmoid")
@dataclass
class SigmoidScheduleConfig(BetaRangeConfig):
    """β_t on a sigmoid curve from beta_start to beta_end (GeoDiff, Xu et al. 2022)."""

    name: str = "sigmoid"


@SCHEDULES.register("proportional")
@dataclass
class ProportionalScheduleConfig(ScheduleConfig):
    """β_t = beta_end · t/T (the lecture notes).

    Keys:
        beta_end: β_T, meant for T = 1000.
        rescale: for another T, 1000/T multiplies every β by 1000/T, so that ᾱ_T stays nearly the same. none changes
            nothing, so that a small T leaves signal in x_T.
    """

    name: str = "proportional"
    beta_end: float = number(0.02, above=0, below=1)
    rescale: Rescale = "none"

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        yield from _rescale_problems(self.rescale, self.beta_end, context)


@SCHEDULES.register("cosine")
@dataclass
class CosineScheduleConfig(ScheduleConfig):
    """ᾱ_t = f(t/T)/f(0) with f(u) = cos²(π/2 · (u+s)/(1+s)) (Nichol & Dhariwal 2021); fits any T.

    Keys:
        s: offset that keeps β from being too small near t = 0.
        max_beta: upper bound of every β.
    """

    name: str = "cosine"
    s: float = number(0.008, at_least=0)
    max_beta: float = number(0.999, above=0, below=1)
