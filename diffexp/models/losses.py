"""The training loss between two logged points: overall and by quarter of the timesteps."""

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor

QUARTERS = 4


class LossByTime:
    """Sums losses on the device, without waiting for it, until their means are asked for.

    Not a module with a buffer: before every step DDP would replace each process's sums by the first one's.

    Args:
        timesteps: T. Quarter 1 holds the least noisy timesteps, 0 ≤ t < T/4.
    """

    def __init__(self, timesteps: int) -> None:
        self.timesteps = timesteps
        self.sums = torch.zeros(2, QUARTERS)

    def add(self, losses: Tensor, t: Tensor, weights: Tensor | None = None) -> None:
        """Add the losses (B,) of images at indices t (B,); none if one is not finite, because that step is left out.

        `weights` (B,) are what each counts, of timesteps that were not drawn evenly.
        """
        quarter = t * QUARTERS // self.timesteps
        member = (quarter[:, None] == torch.arange(QUARTERS, device=t.device)).to(losses.dtype)
        if weights is not None:
            member = member * weights[:, None]
        finite = losses.isfinite().all()
        member, losses = member * finite, torch.where(finite, losses, 0)
        self.sums = self.sums.to(t.device)
        # not index_add_: on a GPU its order, and so its rounding, varies from run to run
        self.sums += torch.stack([(member * losses[:, None]).sum(0), member.sum(0)])

    def means(self, strategy: Strategy) -> dict[str, float]:
        """``loss`` and, of the quarters that were hit, ``loss_q1`` … ``loss_q4``, over all processes; {} of nothing."""
        sums, counts = torch.tensor(self.state(strategy), dtype=torch.float64).sum(0).tolist()
        means = {"loss": sum(sums) / sum(counts)} if sum(counts) else {}
        for quarter, (total, count) in enumerate(zip(sums, counts, strict=True), start=1):
            if count:
                means[f"loss_q{quarter}"] = total / count
        return means

    def reset(self) -> None:
        """Start the next window."""
        self.sums.zero_()

    def state(self, strategy: Strategy) -> list[list[list[float]]]:
        """[sums, counts] by quarter, of each process. Every process must call it."""
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
