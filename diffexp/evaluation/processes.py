"""What scoring needs of several processes: shares, sums and rows. All of them must call; alone, nothing happens."""

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """The number of this process."""
    return dist.get_rank() if _several() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _several() else 1


def share(count: int) -> range:
    """This process's part of range(count): contiguous, in the order of the processes; may be empty."""
    size = -(-count // world())
    return range(min(rank() * size, count), min((rank() + 1) * size, count))


def total(tensor: Tensor) -> Tensor:
    """The sum of every process's tensor, on all of them."""
    if _several():
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def rows(tensor: Tensor) -> Tensor:
    """The rows of every process's tensor in the order of the processes, on all of them; their numbers may differ."""
    if not _several():
        return tensor
    counts = torch.zeros(world(), dtype=torch.int64, device=tensor.device)
    counts[rank()] = len(tensor)
    counts = total(counts)
    padded = tensor.new_zeros(int(counts.max()), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    everybody = [torch.empty_like(padded) for _ in range(world())]
    dist.all_gather(everybody, padded)
    return torch.cat([each[:count] for each, count in zip(everybody, counts.tolist(), strict=True)])


def anywhere(condition: bool, device: torch.device) -> bool:
    """Whether the condition holds in any process."""
    return bool(total(torch.tensor(int(condition), device=device)) > 0)


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()
