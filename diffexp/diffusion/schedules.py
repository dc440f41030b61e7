"""Noise schedules: β_1 … β_T and what follows from them.

    q(x_t | x_{t-1}) = N(√(1-β_t) x_{t-1}, β_t I)          (Ho et al. 2020, eq. 2)
    q(x_t | x_0)     = N(√ᾱ_t x_0, (1-ᾱ_t) I),  ᾱ_t = ∏_{s≤t} (1-β_s)      (eq. 4)

The functions below return β as a float64 tensor of shape (T,). Those that are defined by two numbers for
T = 1000 say with `rescale` what another T does to them: "none" takes the numbers as they are, so that a
small T leaves signal in x_T; "1000/T" multiplies every β by 1000/T, so that ᾱ_T stays nearly the same.
"""

import math

import torch
from torch import Tensor

# With more of the signal than this left in x_T, samples that start from N(0, I) start off the path.
MUCH_SIGNAL = 0.02
# With less than this, samplers that multiply an error of the network by 1/√ᾱ make little else of it.
LITTLE_SIGNAL = 0.005


class Schedule:
    """The tables of one noise schedule, in float64.

    Args:
        betas: β, shape (T,), each in (0, 1).
        zero_terminal_snr: the last β is 1: nothing of x_0 is left in x_T.

    Attributes:
        betas, alphas, alphas_cumprod: β_t, α_t = 1-β_t and ᾱ_t, shape (T,), float64, on the CPU.

    Raises:
        ValueError: if a β is outside (0, 1), also after rounding: β ≤ 0 adds no noise, β ≥ 1 leaves nothing
            to denoise.
    """

    def __init__(self, betas: Tensor, *, zero_terminal_snr: bool = False) -> None:
        betas = betas.to(torch.float64)
        inside = (1 - betas > 0) & (1 - betas < 1)
        if zero_terminal_snr:
            inside[-1] = betas[-1] == 1
        wrong = torch.nonzero(~inside).flatten()
        if len(wrong):
            t = int(wrong[0])
            raise ValueError(f"β must lie between 0 and 1, but β_{t + 1} of {len(betas)} is {betas[t].item():.6g}")
        self.betas = betas
        self.alphas = 1 - betas
        self.alphas_cumprod = torch.cumprod(self.alphas, dim=0)
        self._alpha_bars: list[float] = self.alphas_cumprod.tolist()
        self._signal = TimestepTable(self.alphas_cumprod.sqrt())
        self._sigma = TimestepTable((1 - self.alphas_cumprod).sqrt())

    @property
    def timesteps(self) -> int:
        """T."""
        return len(self.betas)

    @property
    def terminal_signal(self) -> float:
        """√ᾱ_T: the share of x_0 that is left in x_T. Should be near 0, as sampling starts from N(0, I)."""
        return float(self.alphas_cumprod[-1].sqrt())

    def alpha_bar(self, t: int) -> float:
        """ᾱ at index t; 1 at t = -1, the data."""
        return 1.0 if t < 0 else self._alpha_bars[t]

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε (eq. 4), for images x0 and noise (B, C, H, W) and indices t (B,)."""
        signal, sigma = self.levels(t, like=x0)
        return signal * x0 + sigma * noise

    def levels(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(√ᾱ_t, √(1-ᾱ_t)) of the indices t (B,), to multiply tensors shaped like `like` (B, …)."""
        return self._signal.at(t, like), self._sigma.at(t, like)


class TimestepTable:
    """Numbers by timestep, kept on each device that asked: a copy in every step would make it wait.

    Args:
        values: shape (T,), float64, on the CPU.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def at(self, t: Tensor, like: Tensor) -> Tensor:
        """The numbers at indices t (B,), shaped and typed to multiply tensors like `like` (B, …)."""
        copy = (t.device, like.dtype)
        if copy not in self._copies:
            self._copies[copy] = self._values.to(like.dtype).to(t.device)
        return self._copies[copy][t].view(-1, *[1] * (like.ndim - 1))


def linear(timesteps: int, *, beta_start: float = 1e-4, beta_end: float = 0.02, rescale: str = "none") -> Tensor:
    """β equally spaced from beta_start to beta_end (Ho et al. 2020, section 4)."""
    return _rescaled(torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64), rescale)


def scaled_linear(timesteps: int, *, beta_start: float = 1e-4, beta_end: float = 0.02, rescale: str = "none") -> Tensor:
    """√β equally spaced (Rombach et al. 2022, whose range is 0.00085 … 0.012)."""
    roots = torch.linspace(beta_start**0.5, beta_end**0.5, timesteps, dtype=torch.float64)
    return _rescaled(roots**2, rescale)


def sigmoid(timesteps: int, *, beta_start: float = 1e-4, beta_end: float = 0.02, rescale: str = "none") -> Tensor:
    """β along a sigmoid over [-6, 6], from beta_start to beta_end (GeoDiff, Xu et al. 2022)."""
    ramp = torch.sigmoid(torch.linspace(-6, 6, timesteps, dtype=torch.float64))
    return _rescaled(beta_start + (beta_end - beta_start) * ramp, rescale)


def proportional(timesteps: int, *, beta_end: float = 0.02, rescale: str = "none") -> Tensor:
    """β_t = beta_end · t/T, t = 1 … T (the lecture notes, whose α_t is our √(1-β_t))."""
    t = torch.arange(1, timesteps + 1, dtype=torch.float64)
    return _rescaled(beta_end * t / timesteps, rescale)


def cosine(timesteps: int, *, s: float = 0.008, max_beta: float = 0.999) -> Tensor:
    """ᾱ_t = f(t/T)/f(0) with f(u) = cos²(π/2 · (u+s)/(1+s)); β capped (Nichol & Dhariwal 2021, eq. 17)."""
    u = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    f = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=max_beta)


def with_zero_terminal_snr(betas: Tensor) -> Tensor:
    """β whose √ᾱ is shifted and scaled so that it ends at 0 and begins as before (Lin et al. 2024, algorithm 1)."""
    signal = torch.cumprod(1 - betas, dim=0).sqrt()
    signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
    return 1 - torch.cat([signal[:1], signal[1:] / signal[:-1]]) ** 2


def _rescaled(betas: Tensor, rescale: str) -> Tensor:
    if rescale == "none":
        return betas
    if rescale == "1000/T":
        return betas * (1000 / len(betas))
    raise ValueError(f"rescale must be 'none' or '1000/T', not {rescale!r}")
