"""Noise schedules: β_1 … β_T and the forward process they define.

The forward process is (Ho et al. 2020, eq. 2 and 4)::

    q(x_t | x_{t-1}) = N(√(1-β_t) x_{t-1}, β_t I)
    q(x_t | x_0)     = N(√ᾱ_t x_0, (1-ᾱ_t) I),      ᾱ_t = ∏_{s≤t} (1-β_s)

Each function returns β as a float64 tensor of shape (T,). Schedules that are defined by numbers for T = 1000 have an
argument `rescale` for other T. "none" keeps the numbers, so a small T leaves signal in x_T. "1000/T" multiplies every β
by 1000/T, which keeps ᾱ_T nearly unchanged.
"""

import math

import torch
from torch import Tensor

# √ᾱ_T above which x_T differs noticeably from the N(0, I) that sampling starts from.
MUCH_SIGNAL = 0.02
# √ᾱ below which the network's error dominates in samplers that multiply it by 1/√ᾱ.
LITTLE_SIGNAL = 0.005


class Schedule:
    """A noise schedule: tables of β, α and ᾱ.

    Args:
        betas: β, shape (T,), each in (0, 1).
        zero_terminal_snr: the last β is 1, so that x_T is pure noise (ᾱ_T = 0).

    Attributes:
        betas: β_t, shape (T,), float64, on the CPU.
        alphas: α_t = 1-β_t, likewise.
        alphas_cumprod: ᾱ_t, likewise.

    Raises:
        ValueError: if a β is outside (0, 1), also after rounding: β ≤ 0 adds no noise, β ≥ 1 leaves no signal.
    """

    def __init__(self, betas: Tensor, *, zero_terminal_snr: bool = False) -> None:
        betas = betas.to(torch.float64)
        inside = (1 - betas > 0) & (1 - betas < 1)
        if zero_terminal_snr:
            inside[-1] = betas[-1] == 1
        wrong = torch.nonzero(~inside).flatten()
        if len(wrong):
            t = int(wrong[0])
            raise ValueError(f"betas: expected β in (0, 1), got β_{t + 1} of {len(betas)} = {betas[t].item():.6g}.")
        self.betas = betas
        self.alphas = 1 - betas
        self.alphas_cumprod = torch.cumprod(self.alphas, dim=0)
        self._alpha_bars: list[float] = self.alphas_cumprod.tolist()
        self._signal = TimestepTable(self.alphas_cumprod.sqrt())
        self._sigma = TimestepTable((1 - self.alphas_cumprod).sqrt())

    @property
    def timesteps(self) -> int:
        """T, the number of timesteps."""
        return len(self.betas)

    @property
    def terminal_signal(self) -> float:
        """√ᾱ_T, the coefficient of x_0 in x_T. It should be near 0, because sampling starts from N(0, I)."""
        return float(self.alphas_cumprod[-1].sqrt())

    def alpha_bar(self, t: int) -> float:
        """Return ᾱ at index t, and 1 at t = -1, the data."""
        return 1.0 if t < 0 else self._alpha_bars[t]

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Sample from q(x_t | x_0): x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε (Ho et al. 2020, eq. 4).

        Args:
            x0: x_0, shape (B, C, H, W).
            noise: ε ~ N(0, I), same shape.
            t: indices, int64 (B,).

        Returns:
            x_t, same shape as x0.
        """
        signal, sigma = self.levels(t, like=x0)
        return signal * x0 + sigma * noise

    def levels(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return (√ᾱ_t, √(1-ᾱ_t)) at the indices t (B,), broadcastable to tensors shaped like `like` (B, …)."""
        return self._signal.at(t, like), self._sigma.at(t, like)


class TimestepTable:
    """A table of T numbers, cached by device and dtype, because a copy at every step would synchronise with the device.

    Args:
        values: shape (T,), float64, on the CPU.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def at(self, t: Tensor, like: Tensor) -> Tensor:
        """Return the values at the indices t (B,), with the dtype of `like` (B, …) and broadcastable to it."""
        copy = (t.device, like.dtype)
        if copy not in self._copies:
            self._copies[copy] = self._values.to(like.dtype).to(t.device)
        return self._copies[copy][t].view(-1, *[1] * (like.ndim - 1))


def linear(timesteps: int, *, beta_start: float = 1e-4, beta_end: float = 0.02, rescale: str = "none") -> Tensor:
    """Return β equally spaced from beta_start to beta_end (Ho et al. 2020, section 4).

    Args:
        timesteps: T, the number of timesteps.
        beta_start: β_1, in (0, 1).
        beta_end: β_T, in (0, 1).
        rescale: "none" or "1000/T".

    Returns:
        β, float64 (T,).
    """
    return _rescaled(torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64), rescale)


def scaled_linear(timesteps: int, *, beta_start: float = 1e-4, beta_end: float = 0.02, rescale: str = "none") -> Tensor:
    """Return β with equally spaced √β (Rombach et al. 2022, with β from 0.00085 to 0.012).

    Args:
        timesteps: T, the number of timesteps.
        beta_start: β_1, in (0, 1).
        beta_end: β_T, in (0, 1).
        rescale: "none" or "1000/T".

    Returns:
        β, float64 (T,).
    """
    roots = torch.linspace(beta_start**0.5, beta_end**0.5, timesteps, dtype=torch.float64)
    return _rescaled(roots**2, rescale)


def sigmoid(timesteps: int, *, beta_start: float = 1e-4, beta_end: float = 0.02, rescale: str = "none") -> Tensor:
    """Return β along a sigmoid over [-6, 6], between beta_start and beta_end (GeoDiff, Xu et al. 2022).

    Args:
        timesteps: T, the number of timesteps.
        beta_start: lower asymptote of β, in (0, 1).
        beta_end: upper asymptote of β, in (0, 1).
        rescale: "none" or "1000/T".

    Returns:
        β, float64 (T,).
    """
    ramp = torch.sigmoid(torch.linspace(-6, 6, timesteps, dtype=torch.float64))
    return _rescaled(beta_start + (beta_end - beta_start) * ramp, rescale)


def proportional(timesteps: int, *, beta_end: float = 0.02, rescale: str = "none") -> Tensor:
    """Return β_t = beta_end · t/T for t = 1 … T (the lecture notes, whose α_t is √(1-β_t) in this notation).

    Args:
        timesteps: T, the number of timesteps.
        beta_end: β_T, in (0, 1).
        rescale: "none" or "1000/T".

    Returns:
        β, float64 (T,).
    """
    t = torch.arange(1, timesteps + 1, dtype=torch.float64)
    return _rescaled(beta_end * t / timesteps, rescale)


def cosine(timesteps: int, *, s: float = 0.008, max_beta: float = 0.999) -> Tensor:
    """Return the β of ᾱ_t = f(t/T)/f(0), f(u) = cos²(π/2 · (u+s)/(1+s)) (Nichol & Dhariwal 2021, eq. 17).

    Args:
        timesteps: T, the number of timesteps.
        s: offset that keeps β_1 from being too small.
        max_beta: upper limit of every β.

    Returns:
        β_t = 1 - ᾱ_t/ᾱ_{t-1}, at most max_beta, float64 (T,).
    """
    u = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    f = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=max_beta)


def with_zero_terminal_snr(betas: Tensor) -> Tensor:
    """Rescale a schedule to zero terminal SNR: √ᾱ_T = 0 with √ᾱ_1 unchanged (Lin et al. 2024, algorithm 1).

    Args:
        betas: β, float64 (T,).

    Returns:
        β with the shifted and scaled √ᾱ, float64 (T,); the last one is 1.
    """
    signal = torch.cumprod(1 - betas, dim=0).sqrt()
    signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
    return 1 - torch.cat([signal[:1], signal[1:] / signal[:-1]]) ** 2


def _rescaled(betas: Tensor, rescale: str) -> Tensor:
    if rescale == "none":
        return betas
    if rescale == "1000/T":
        return betas * (1000 / len(betas))
    raise ValueError(f"rescale: expected none or 1000/T, got {rescale!r}.")
