"""Sharding and all-reduce for scoring. All ranks must call; no-ops in a single process."""

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor


def rank() -> int:
    """Return the rank of this process."""
    return dist.get_rank() if _several() else 0


def world() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if _several() else 1


def share(count: int) -> range:
    """Return this process's part of range(count): contiguous, in the order of ranks, possibly empty."""
    size = -(-count // world())
    return range(min(rank() * size, count), min((rank() + 1) * size, count))


def total(tensor: Tensor) -> Tensor:
    """Return the sum of all processes' tensors (all-reduce)."""
    if _several():
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def anywhere(condition: bool, device: torch.device) -> bool:
    """Whether the condition holds in any process."""
    return bool(total(torch.tensor(int(condition), device=device)) > 0)


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()


def is_main_process() -> bool:
    """Whether this is rank 0, also before a Trainer exists."""
    rank: int = getattr(rank_zero_only, "rank", 0)
    return rank == 0
