"""Schemas of what training minimises. The formulas are in `diffexp.diffusion.weightings`."""

from dataclasses import dataclass

from diffexp.config.fields import number
from diffexp.config.registry import Component, Registry


@dataclass
class WeightingConfig(Component):
    """Weights of the loss by timestep. Its builder gets SNR (T,) and returns the weights of x̂0's squared error."""


WEIGHTINGS = Registry("weighting", WeightingConfig, "diffexp.diffusion.weightings:{name}")


@WEIGHTINGS.register("uniform")
@dataclass
class UniformWeightingConfig(WeightingConfig):
    """The error of what the network predicts, the same for all timesteps (Ho et al. 2020)."""

    name: str = "uniform"


@WEIGHTINGS.register("min_snr")
@dataclass
class MinSnrWeightingConfig(WeightingConfig):
    """min(SNR, gamma) of x̂0's error (Hang et al. 2023)."""

    name: str = "min_snr"
    gamma: float = number(5.0, above=0)


@WEIGHTINGS.register("p2")
@dataclass
class P2WeightingConfig(WeightingConfig):
    """SNR/(k + SNR)^gamma of x̂0's error (Choi et al. 2022)."""

    name: str = "p2"
    gamma: float = number(1.0, at_least=0)
    k: float = number(1.0, above=0)


@WEIGHTINGS.register("truncated_snr")
@dataclass
class TruncatedSnrWeightingConfig(WeightingConfig):
    """max(SNR, 1) of x̂0's error (Salimans & Ho 2022)."""

    name: str = "truncated_snr"
