"""Sharding and all-reduce for scoring, and checks of Slurm tasks. All ranks must call; no-ops in a single process."""

import os

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from diffexp.errors import UserError


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


def cluster_plugins() -> list[SLURMEnvironment]:
    """Return Lightning's plugin for Slurm if srun started this task, without its own saving and requeueing.

    Lightning saves inside the signal handler, between any two instructions, where weights may be partly updated.
    """
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def check_tasks(devices: int, nodes: int) -> None:
    """Check that Slurm has started one process per device.

    Raises:
        UserError: if it has not. Lightning would silently train on fewer devices, or wait indefinitely.
    """
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    if not SLURMEnvironment.detect() or tasks == devices * nodes == 1:
        return
    wanted = f"srun --nodes={nodes} --ntasks-per-node={devices}"
    if tasks != devices * nodes:
        raise UserError(
            f"training.devices: expected {devices * nodes} Slurm tasks ({devices} for each of {nodes} nodes), "
            f"got {tasks}. Start with {wanted}."
        )
    if "SLURM_STEP_ID" not in os.environ:
        raise UserError(f"training.devices: expected {tasks} tasks, got this one only. Start with {wanted}.")


def is_main_process() -> bool:
    """Whether this is rank 0, also before a Trainer exists."""
    rank: int = getattr(rank_zero_only, "rank", 0)
    return rank == 0
