"""Training losses between two logged points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor

QUARTERS = 4


@dataclass(frozen=True)
class PerSampleLoss:
    """What a training step computes of each of B images.

    Attributes:
        minimized: what the step minimises the mean of, (B,).
        logged: by name, what is logged the mean of, (B,) each.
        t: timesteps (B,), of models that have such.
        weights: what each image counts in both means, (B,); None is 1.
    """

    minimized: Tensor
    logged: Mapping[str, Tensor]
    t: Tensor | None = None
    weights: Tensor | None = None


class LossMeter:
    """Sums several losses on the device, without waiting for it, until their means are asked for.

    Not a module with a buffer: before every step DDP would replace each process's sums by the first one's.

    Args:
        names: of the losses, as they are logged.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.sums = torch.zeros(2, len(names))

    def update(self, loss: PerSampleLoss) -> None:
        """Add what a step computed."""
        losses = torch.stack([loss.logged[name].detach() for name in self.names], dim=1)
        self.add(losses, None if loss.weights is None else loss.weights[:, None].expand_as(losses))

    def add(self, losses: Tensor, weights: Tensor | None = None) -> None:
        """Add the losses (B, names) of images; none if one is not finite, because that step is left out.

        `weights`, of that shape, are what each counts.
        """
        finite = losses.isfinite().all()
        counted = (torch.ones_like(losses) if weights is None else weights) * finite
        losses = losses.masked_fill(~finite, 0)  # not torch.where, which copies a number to the GPU and waits
        self.sums = self.sums.to(losses.device)
        # not index_add_: on a GPU its order, and so its rounding, varies from run to run
        self.sums += torch.stack([(counted * losses).sum(0), counted.sum(0)])

    def means(self, strategy: Strategy) -> dict[str, float]:
        """By name, over all processes; just those that were added."""
        sums, counts = self.totals(strategy)
        return {name: total / count for name, total, count in zip(self.names, sums, counts, strict=True) if count}

    def totals(self, strategy: Strategy) -> tuple[list[float], list[float]]:
        """(sums, counts) over all processes."""
        sums, counts = torch.tensor(self.state(strategy), dtype=torch.float64).sum(0).tolist()
        return sums, counts

    def reset(self) -> None:
        """Start the next window."""
        self.sums.zero_()

    def state(self, strategy: Strategy) -> list[list[list[float]]]:
        """[sums, counts] by name, of each process. Every process must call it."""
        gathered = strategy.all_gather(self.sums.to(strategy.root_device, copy=True))
        assert isinstance(gathered, Tensor)
        values: list[list[list[float]]] = gathered.reshape(-1, *self.sums.shape).tolist()
        return values

    def load(self, state: list[list[list[float]]], rank: int, world_size: int) -> None:
        """Take up a state: each process its own, so that sums round alike; the first all, if their number differs."""
        self.reset()
        if len(state) == world_size:
            self.sums = torch.tensor(state[rank])
        elif rank == 0:
            self.sums = torch.tensor(state).sum(0)


class LossByTimestep(LossMeter):
    """The loss of a diffusion model: overall and by quarter of the timesteps.

    Args:
        timesteps: T. Quarter 1 holds the least noisy timesteps, 0 ≤ t < T/4.
    """

    def __init__(self, timesteps: int) -> None:
        super().__init__([f"loss_q{quarter}" for quarter in range(1, QUARTERS + 1)])
        self.timesteps = timesteps

    def update(self, loss: PerSampleLoss) -> None:
        """Add ``loss`` of what a step computed, at its timesteps."""
        assert loss.t is not None
        self.add_at(loss.logged["loss"].detach(), loss.t, loss.weights)

    def add_at(self, losses: Tensor, t: Tensor, weights: Tensor | None = None) -> None:
        """Add the losses (B,) of images at indices t (B,), each counted as often as its weight (B,) says."""
        quarter = t * QUARTERS // self.timesteps
        member = (quarter[:, None] == torch.arange(QUARTERS, device=t.device)).to(losses.dtype)
        if weights is not None:
            member = member * weights[:, None]
        self.add(losses[:, None].expand_as(member), member)

    def means(self, strategy: Strategy) -> dict[str, float]:
        """``loss`` and, of the quarters that were hit, ``loss_q1`` … ``loss_q4``, over all processes; {} of nothing."""
        sums, counts = self.totals(strategy)
        overall = {"loss": sum(sums) / sum(counts)} if sum(counts) else {}
        return overall | {
            name: total / count for name, total, count in zip(self.names, sums, counts, strict=True) if count
        }
