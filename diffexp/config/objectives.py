"""Schemas of what training minimises. The formulas are in `diffexp.diffusion.weightings`."""

from dataclasses import dataclass

from diffexp.config.fields import number
from diffexp.config.registry import Choice, Registry

_WEIGHTINGS = "diffexp.diffusion.weightings"


@dataclass
class WeightingConfig(Choice):
    """Weights of the loss by timestep. Its builder gets SNR (T,) and returns the weights of x̂0's squared error."""


WEIGHTINGS = Registry("weighting", WeightingConfig)


@WEIGHTINGS.register("uniform", f"{_WEIGHTINGS}:uniform")
@dataclass
class UniformWeighting(WeightingConfig):
    """The error of what the network predicts, the same for all timesteps (Ho et al. 2020)."""

    name: str = "uniform"


@WEIGHTINGS.register("min_snr", f"{_WEIGHTINGS}:min_snr")
@dataclass
class MinSnrWeighting(WeightingConfig):
    """min(SNR, gamma) of x̂0's error (Hang et al. 2023)."""

    name: str = "min_snr"
    gamma: float = number(5.0, above=0)


@WEIGHTINGS.register("p2", f"{_WEIGHTINGS}:p2")
@dataclass
class P2Weighting(WeightingConfig):
    """SNR/(k + SNR)^gamma of x̂0's error (Choi et al. 2022)."""

    name: str = "p2"
    gamma: float = number(1.0, at_least=0)
    k: float = number(1.0, above=0)


@WEIGHTINGS.register("truncated_snr", f"{_WEIGHTINGS}:truncated_snr")
@dataclass
class TruncatedSnrWeighting(WeightingConfig):
    """max(SNR, 1) of x̂0's error (Salimans & Ho 2022)."""

    name: str = "truncated_snr"
