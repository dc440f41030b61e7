"""Schemas of the loss weightings. The formulas are in `diffexp.diffusion.weightings`."""

from dataclasses import dataclass

from diffexp.config.fields import number
from diffexp.config.registry import Component, Registry


@dataclass
class WeightingConfig(Component):
    """Weights of the loss by timestep. Its builder gets SNR (T,) and returns the weights of the squared error of x̂0."""


WEIGHTINGS = Registry("weighting", WeightingConfig, "diffexp.diffusion.weightings:{name}")


@WEIGHTINGS.register("uniform")
@dataclass
class UniformWeightingConfig(WeightingConfig):
    """Weight the squared error of the network's prediction equally at all timesteps (Ho et al. 2020)."""

    name: str = "uniform"


@WEIGHTINGS.register("min_snr")
@dataclass
class MinSnrWeightingConfig(WeightingConfig):
    """Weight the squared error of x̂0 by min(SNR, gamma) (Hang et al. 2023).

    Keys:
        gamma: upper bound of the weight.
    """

    name: str = "min_snr"
    gamma: float = number(5.0, above=0)


@WEIGHTINGS.register("p2")
@dataclass
class P2WeightingConfig(WeightingConfig):
    """Weight the squared error of x̂0 by SNR/(k + SNR)^gamma (Choi et al. 2022).

    Keys:
        gamma: exponent of the denominator.
        k: constant added to the SNR.
    """

    name: str = "p2"
    gamma: float = number(1.0, at_least=0)
    k: float = number(1.0, above=0)


@WEIGHTINGS.register("truncated_snr")
@dataclass
class TruncatedSnrWeightingConfig(WeightingConfig):
    """Weight the squared error of x̂0 by max(SNR, 1) (Salimans & Ho 2022)."""

    name: str = "truncated_snr"
