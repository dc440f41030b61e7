"""Weights of the training loss by timestep.

Each is the weight of ‖x_0 - x̂_0‖², as a function of the signal-to-noise ratio SNR = ᾱ/(1-ᾱ); a network that predicts
something else has its own error weighted alike (`diffexp.diffusion.predictions.Prediction.error_of_x0`). They take the
SNR, a float64 tensor (T,), and return the weights of that shape. `uniform` is the exception: it leaves the error of
what the network predicts as it is (L_simple, Ho et al. 2020, eq. 14), and returns None.
"""

from torch import Tensor


def uniform(snr: Tensor) -> None:
    """The same weight for all timesteps."""


def min_snr(snr: Tensor, *, gamma: float = 5.0) -> Tensor:
    """min(SNR, γ) (Hang et al. 2023, eq. 6): of ε-prediction, min(SNR, γ)/SNR."""
    return snr.clamp(max=gamma)


def p2(snr: Tensor, *, gamma: float = 1.0, k: float = 1.0) -> Tensor:
    """SNR/(k + SNR)^γ (Choi et al. 2022, eq. 8): of ε-prediction, 1/(k + SNR)^γ."""
    return snr / (k + snr) ** gamma


def truncated_snr(snr: Tensor) -> Tensor:
    """max(SNR, 1) (Salimans & Ho 2022, section 4)."""
    return snr.clamp(min=1)
