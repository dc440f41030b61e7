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
        zero_terminal_snr: shift √ᾱ so that it ends at 0 and x_T is pure noise (Lin et al. 2024); for v and x0.
    """

    zero_terminal_snr: bool = False


SCHEDULES = Registry("schedule", ScheduleConfig, "diffexp.diffusion.schedules:{name}")


@dataclass
class BetaRangeConfig(ScheduleConfig):
    """From beta_start to beta_end, meant for T = 1000; `rescale` says what another T does to them."""

    beta_start: float = number(1e-4, above=0, below=1)
    beta_end: float = number(0.02, above=0, below=1)
    rescale: Rescale = "none"

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        if self.beta_end < self.beta_start:
            yield "beta_end", f"must not be below beta_start = {self.beta_start}"
        yield from _rescale_problems(self.rescale, self.beta_end, context)


def _rescale_problems(rescale: str, beta_end: float, context: Context) -> Iterator[tuple[str, str]]:
    timesteps = context.timesteps or 1000
    if rescale == "1000/T" and beta_end * 1000 / timesteps >= 1:
        beta = beta_end * 1000 / timesteps
        yield "rescale", f"makes the last β {beta:g} at model.timesteps = {timesteps}; it must stay below 1"


@SCHEDULES.register("linear")
@dataclass
class LinearScheduleConfig(BetaRangeConfig):
    """β equally spaced (Ho et al. 2020)."""

    name: str = "linear"


@SCHEDULES.register("scaled_linear")
@dataclass
class ScaledLinearScheduleConfig(BetaRangeConfig):
    """√β equally spaced (latent diffusion)."""

    name: str = "scaled_linear"


@SCHEDULES.register("sigmoid")
@dataclass
class SigmoidScheduleConfig(BetaRangeConfig):
    """β along a sigmoid (GeoDiff)."""

    name: str = "sigmoid"


@SCHEDULES.register("proportional")
@dataclass
class ProportionalScheduleConfig(ScheduleConfig):
    """β_t = beta_end · t/T (the lecture notes)."""

    name: str = "proportional"
    beta_end: float = number(0.02, above=0, below=1)
    rescale: Rescale = "none"

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        yield from _rescale_problems(self.rescale, self.beta_end, context)


@SCHEDULES.register("cosine")
@dataclass
class CosineScheduleConfig(ScheduleConfig):
    """ᾱ along a squared cosine (Nichol & Dhariwal 2021); a function of t/T, so any T fits."""

    name: str = "cosine"
    s: float = number(0.008, at_least=0)
    max_beta: float = number(0.999, above=0, below=1)
