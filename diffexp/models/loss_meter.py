"""Running means of training losses between two logged points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor

QUARTERS = 4


@dataclass(frozen=True)
class PerSampleLoss:
    """The losses of B images in a training step.

    Attributes:
        minimized: the loss whose mean the step minimises, (B,).
        logged: by name, the values whose means are logged, (B,) each.
        t: timestep indices (B,), for models with timesteps.
        weights: weight of each image in both means, (B,); None is 1.
    """

    minimized: Tensor
    logged: Mapping[str, Tensor]
    t: Tensor | None = None
    weights: Tensor | None = None


class LossMeter:
    """Sums losses on the device; only reading their means synchronises with it.

    It is not a module with a buffer, because DDP would overwrite each process's buffers with rank 0's before every
    step.

    Args:
        names: names of the losses, as logged.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.sums = torch.zeros(2, len(names))

    def update(self, loss: PerSampleLoss) -> None:
        """Add the losses of a step."""
        losses = torch.stack([loss.logged[name].detach() for name in self.names], dim=1)
        self.add(losses, None if loss.weights is None else loss.weights[:, None].expand_as(losses))

    def add(self, losses: Tensor, weights: Tensor | None = None) -> None:
        """Add losses, or none of them if any is not finite, because that step is skipped.

        Args:
            losses: (B, names).
            weights: their weights, same shape; None is 1.
        """
        finite = losses.isfinite().all()
        counted = (torch.ones_like(losses) if weights is None else weights) * finite
        losses = losses.masked_fill(~finite, 0)  # not torch.where, which copies a scalar to the GPU and synchronises
        self.sums = self.sums.to(losses.device)
        # not index_add_: on a GPU its summation order, and so its rounding, varies between runs
        self.sums += torch.stack([(counted * losses).sum(0), counted.sum(0)])

    def means(self, strategy: Strategy) -> dict[str, float]:
        """Return the means over all processes by name, omitting losses without samples."""
        sums, counts = self.totals(strategy)
        return {name: total / count for name, total, count in zip(self.names, sums, counts, strict=True) if count}

    def totals(self, strategy: Strategy) -> tuple[list[float], list[float]]:
        """Return (sums, sums of weights) over all processes, one number for each name."""
        sums, counts = torch.tensor(self.state(strategy), dtype=torch.float64).sum(0).tolist()
        return sums, counts

    def reset(self) -> None:
        """Start the next window."""
        self.sums.zero_()

    def state(self, strategy: Strategy) -> list[list[list[float]]]:
        """Gather [sums, sums of weights] by name from each process. Every process must call it."""
        gathered = strategy.all_gather(self.sums.to(strategy.root_device, copy=True))
        assert isinstance(gathered, Tensor)
        values: list[list[list[float]]] = gathered.reshape(-1, *self.sums.shape).tolist()
        return values

    def load(self, state: list[list[list[float]]], rank: int, world_size: int) -> None:
        """Restore a gathered state.

        Each process restores its own sums, so that rounding is unchanged. If the number of processes differs, rank 0
        restores the total.
        """
        self.reset()
        if len(state) == world_size:
            self.sums = torch.tensor(state[rank])
        elif rank == 0:
            self.sums = torch.tensor(state).sum(0)


class LossByTimestep(LossMeter):
    """The loss of a diffusion model, overall and by quarter of the timesteps.

    Args:
        timesteps: T, the number of timesteps. Quarter 1 holds the least noisy timesteps, 0 ≤ t < T/4.
    """

    def __init__(self, timesteps: int) -> None:
        super().__init__([f"loss_q{quarter}" for quarter in range(1, QUARTERS + 1)])
        self.timesteps = timesteps

    def update(self, loss: PerSampleLoss) -> None:
        """Add the ``loss`` of a step at its timesteps."""
        assert loss.t is not None
        self.add_at(loss.logged["loss"].detach(), loss.t, loss.weights)

    def add_at(self, losses: Tensor, t: Tensor, weights: Tensor | None = None) -> None:
        """Add the losses of images at their timesteps.

        Args:
            losses: (B,).
            t: timestep indices (B,).
            weights: weights of the images (B,); None is 1.
        """
        quarter = t * QUARTERS // self.timesteps
        member = (quarter[:, None] == torch.arange(QUARTERS, device=t.device)).to(losses.dtype)
        if weights is not None:
            member = member * weights[:, None]
        self.add(losses[:, None].expand_as(member), member)

    def means(self, strategy: Strategy) -> dict[str, float]:
        """Return ``loss`` and the nonempty ones of ``loss_q1`` … ``loss_q4`` over all processes; {} without samples."""
        sums, counts = self.totals(strategy)
        overall = {"loss": sum(sums) / sum(counts)} if sum(counts) else {}
        return overall | {
            name: total / count for name, total, count in zip(self.names, sums, counts, strict=True) if count
        }
