"""How training samples the timesteps of a batch."""

import math
from typing import Protocol

import torch
from torch import Tensor

from diffexp.rng import derive_seed


class TimestepSampler(Protocol):
    """A distribution on 0 … T-1."""

    def sample(self, uniform: Tensor, positions: Tensor, batch_size: int, seed: int) -> Tensor:
        """Sample indices (B,) for B images of a step.

        Args:
            uniform: a number in [0, 1) for each image, float64 (B,).
            positions: of the images in the global batch, int64 (B,), in [0, batch_size).
            batch_size: images of the step over all processes.
            seed: of the step, the same for all its images.
        """

    def weights(self, t: Tensor) -> Tensor | None:
        """What a loss at each of t (B,) counts in the mean, 1 / (T p_t), shape (B,); None is 1."""


class UniformSampler:
    """Each on its own (Ho et al. 2020, algorithm 1).

    Args:
        timesteps: T.
    """

    def __init__(self, timesteps: int) -> None:
        self.timesteps = timesteps

    def sample(self, uniform: Tensor, positions: Tensor, batch_size: int, seed: int) -> Tensor:
        """Draw t from {0, …, T-1} with equal probability, int64 (B,)."""
        return (uniform * self.timesteps).long()

    def weights(self, t: Tensor) -> None:
        """Return None: every image counts alike."""


class StratifiedSampler(UniformSampler):
    """One from each of `batch_size` equal parts of [0, T), dealt to the images in another order in every step.

    For each image t is uniform. The mean loss of a batch varies less than with `UniformSampler` (Kingma et al. 2021,
    appendix I.1, with one offset a part).
    """

    def sample(self, uniform: Tensor, positions: Tensor, batch_size: int, seed: int) -> Tensor:
        """Draw one t from each part, int64 (B,)."""
        # a permutation that costs nothing: images come in random order themselves
        shift, factor = derive_seed("shift", seed) % batch_size, derive_seed("factor", seed) % batch_size
        while math.gcd(factor, batch_size) != 1:
            factor += 1
        parts = (positions * factor + shift) % batch_size
        return ((parts + uniform) * self.timesteps / batch_size).long().clamp_(max=self.timesteps - 1)


class ImportanceSampler:
    """In proportion to the root mean square of the last losses at each timestep (Nichol & Dhariwal 2021, eq. 18).

    Uniform until every timestep has `KEPT` losses; then p_t = (1 - MIXED) √E[L_t²] / Σ √E[L²] + MIXED / T. Nothing here
    waits for a GPU.

    Args:
        timesteps: T.
    """

    KEPT = 10
    MIXED = 1e-3

    def __init__(self, timesteps: int) -> None:
        self.timesteps = timesteps
        self.squares = torch.zeros(timesteps + 1, self.KEPT)  # the last row takes what is not kept
        self.counts = torch.zeros(timesteps, dtype=torch.long)

    def probabilities(self) -> Tensor:
        """p_t, shape (T,), float64."""
        means = self.squares[:-1].double().mean(1).sqrt()
        learned = (1 - self.MIXED) * means / means.sum() + self.MIXED / self.timesteps
        even = torch.full_like(learned, 1 / self.timesteps)
        ready = (self.counts >= self.KEPT).all() & (means.sum() > 0)
        return torch.where(ready, learned, even)

    def sample(self, uniform: Tensor, positions: Tensor, batch_size: int, seed: int) -> Tensor:
        """Draw t with probability p_t, by the inverse of its distribution function, int64 (B,)."""
        self._to(uniform.device)
        # sums of integers do not depend on their order, which on a GPU varies
        limits = (self.probabilities() * 2.0**40).long().cumsum(0)
        chosen = (uniform * limits[-1]).long()
        return torch.searchsorted(limits, chosen, right=True)

    def weights(self, t: Tensor) -> Tensor:
        """Return 1/(T p_t), which makes the weighted mean unbiased, float32 (B,)."""
        self._to(t.device)
        return (1 / (self.timesteps * self.probabilities()[t])).float()

    def add(self, t: Tensor, losses: Tensor) -> None:
        """Remember the losses (B,) of images at t (B,), in this order; none if one is not finite."""
        self._to(t.device)
        same = t[:, None] == t[None, :]
        before, after = same.tril(-1).sum(1), same.triu(1).sum(1)
        finite = losses.isfinite().all()
        kept = (after < self.KEPT) & finite
        places = t.masked_fill(~kept, self.timesteps), (self.counts[t] + before) % self.KEPT
        self.squares[places] = losses.float().square().masked_fill(~finite, 0)
        self.counts += (t[:, None] == torch.arange(self.timesteps, device=t.device)).sum(0) * finite

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {"squares": self.squares[:-1].cpu(), "counts": self.counts.cpu()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take up a state."""
        self.squares[:-1] = state["squares"]
        self.counts = state["counts"].to(self.counts.device, copy=True)

    def _to(self, device: torch.device) -> None:
        self.squares, self.counts = self.squares.to(device), self.counts.to(device)
