"""Weights of the training loss by timestep.

Each function maps the signal-to-noise ratio SNR_t = ᾱ_t/(1-ᾱ_t), float64 (T,), to the weights w_t of ‖x_0 - x̂_0‖²,
same shape. `diffexp.diffusion.predictions.Prediction.error_of_x0` converts them to the equivalent weights of another
prediction's error. The exception is `uniform`: it returns None, and the prediction's own error keeps the weight 1
(L_simple, Ho et al. 2020, eq. 14).
"""

from torch import Tensor


def uniform(snr: Tensor) -> None:
    """Return None: the weight is 1 for all timesteps."""


def min_snr(snr: Tensor, *, gamma: float = 5.0) -> Tensor:
    """Return min(SNR, γ), which is min(SNR, γ)/SNR on the error of ε (Hang et al. 2023, eq. 6)."""
    return snr.clamp(max=gamma)


def p2(snr: Tensor, *, gamma: float = 1.0, k: float = 1.0) -> Tensor:
    """Return SNR/(k + SNR)^γ, which is 1/(k + SNR)^γ on the error of ε (Choi et al. 2022, eq. 8)."""
    return snr / (k + snr) ** gamma


def truncated_snr(snr: Tensor) -> Tensor:
    """Return max(SNR, 1), the truncated SNR weighting (Salimans & Ho 2022, section 4)."""
    return snr.clamp(min=1)
