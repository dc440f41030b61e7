"""Samplers of the training timesteps t in {0, …, T-1} of a batch."""

import math
from typing import Protocol

import torch
from torch import Tensor

from diffexp.rng import derive_seed
from diffexp.system.devices import float64_device


class TimestepSampler(Protocol):
    """A distribution p_t on the indices 0 … T-1."""

    def sample(self, uniform: Tensor, positions: Tensor, batch_size: int, seed: int) -> Tensor:
        """Sample one index for each of B images of a step.

        Args:
            uniform: one number in [0, 1) for each image, float64 (B,).
            positions: positions of the images in the global batch, int64 (B,), in [0, batch_size).
            batch_size: images of the step, over all processes.
            seed: seed of the step, the same for all of its images.

        Returns:
            Indices, int64 (B,).
        """

    def weights(self, t: Tensor) -> Tensor | None:
        """Return the importance weights 1/(T p_t) of losses at t (B,), shape (B,); None is 1."""


class UniformSampler:
    """Independent uniform timesteps (Ho et al. 2020, algorithm 1).

    Args:
        timesteps: T, the number of timesteps.
    """

    def __init__(self, timesteps: int) -> None:
        self.timesteps = timesteps

    def sample(self, uniform: Tensor, positions: Tensor, batch_size: int, seed: int) -> Tensor:
        """Sample t uniformly from {0, …, T-1}, int64 (B,)."""
        return (uniform * self.timesteps).long()

    def weights(self, t: Tensor) -> None:
        """Return None: all weights are 1."""


class StratifiedSampler(UniformSampler):
    """One timestep from each of `batch_size` equal parts of [0, T), assigned to the images in a new order at each step.

    Each image's t is uniform. The batch mean of the loss has a lower variance than with `UniformSampler` (Kingma et al.
    2021, appendix I.1, with an independent offset in each part).
    """

    def sample(self, uniform: Tensor, positions: Tensor, batch_size: int, seed: int) -> Tensor:
        """Sample one t from each part, int64 (B,)."""
        # A linear congruential permutation is enough, because the order of the images is random already.
        shift, factor = derive_seed("shift", seed) % batch_size, derive_seed("factor", seed) % batch_size
        while math.gcd(factor, batch_size) != 1:
            factor += 1
        parts = (positions * factor + shift) % batch_size
        return ((parts + uniform) * self.timesteps / batch_size).long().clamp_(max=self.timesteps - 1)


class ImportanceSampler:
    """Timesteps with p_t proportional to the RMS of recent losses at t (Nichol & Dhariwal 2021, eq. 18)::

        p_t = (1 - MIXED) √E[L_t²] / Σ_s √E[L_s²] + MIXED/T

    E is the mean over the last `KEPT` losses at t. p_t is uniform until every timestep has `KEPT` losses. No operation
    synchronises with a GPU.

    Args:
        timesteps: T, the number of timesteps.
    """

    KEPT = 10
    MIXED = 1e-3

    def __init__(self, timesteps: int) -> None:
        self.timesteps = timesteps
        self.squares = torch.zeros(timesteps + 1, self.KEPT)  # the last row receives discarded losses
        self.counts = torch.zeros(timesteps, dtype=torch.long)

    def probabilities(self) -> Tensor:
        """Return p_t, float64 (T,)."""
        means = self.squares[:-1].double().mean(1).sqrt()
        learned = (1 - self.MIXED) * means / means.sum() + self.MIXED / self.timesteps
        even = torch.full_like(learned, 1 / self.timesteps)
        ready = (self.counts >= self.KEPT).all() & (means.sum() > 0)
        return torch.where(ready, learned, even)

    def sample(self, uniform: Tensor, positions: Tensor, batch_size: int, seed: int) -> Tensor:
        """Sample t with probability p_t by inverting the cumulative distribution, int64 (B,)."""
        self._to(uniform.device)
        uniform = uniform.to(self.counts.device).double()
        # Integer sums do not depend on the order of summation, which varies on a GPU.
        limits = (self.probabilities() * 2.0**40).long().cumsum(0)
        chosen = (uniform * limits[-1]).long()
        return torch.searchsorted(limits, chosen, right=True).to(positions.device)

    def weights(self, t: Tensor) -> Tensor:
        """Return 1/(T p_t), which makes the weighted mean unbiased, float32 (B,)."""
        self._to(t.device)
        chosen = self.probabilities()[t.to(self.counts.device)]
        return (1 / (self.timesteps * chosen)).float().to(t.device)

    def add(self, t: Tensor, losses: Tensor) -> None:
        """Record the losses (B,) at the indices t (B,), in this order; discard all of them if any is not finite."""
        self._to(t.device)
        t, losses = t.to(self.counts.device), losses.to(self.counts.device)
        same = t[:, None] == t[None, :]
        before, after = same.tril(-1).sum(1), same.triu(1).sum(1)
        finite = losses.isfinite().all()
        kept = (after < self.KEPT) & finite
        places = t.masked_fill(~kept, self.timesteps), (self.counts[t] + before) % self.KEPT
        self.squares[places] = losses.float().square().masked_fill(~finite, 0)
        self.counts += (t[:, None] == torch.arange(self.timesteps, device=t.device)).sum(0) * finite

    def state(self) -> dict[str, Tensor]:
        """Return the state for a checkpoint."""
        return {"squares": self.squares[:-1].cpu(), "counts": self.counts.cpu()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Restore the state of a checkpoint."""
        self.squares[:-1] = state["squares"]
        self.counts = state["counts"].to(self.counts.device, copy=True)

    def _to(self, device: torch.device) -> None:
        device = float64_device(device)
        self.squares, self.counts = self.squares.to(device), self.counts.to(device)
