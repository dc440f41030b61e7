"""What scoring needs of several processes: shares and sums. All of them must call; alone, nothing happens."""

import os

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from diffexp.errors import UserError


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


def anywhere(condition: bool, device: torch.device) -> bool:
    """Whether the condition holds in any process."""
    return bool(total(torch.tensor(int(condition), device=device)) > 0)


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()


def cluster_plugins() -> list[SLURMEnvironment]:
    """Lightning's plugin for Slurm, where this is a task of an srun, without the saving and requeueing of its own.

    Lightning saves inside the signal handler, between any two instructions, where weights may be half updated.
    """
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def check_tasks(devices: int, nodes: int) -> None:
    """See that Slurm has started as many processes as will train together.

    Raises:
        UserError: if it has not: Lightning would train on fewer devices, or wait for ever, without a word.
    """
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    if not SLURMEnvironment.detect() or tasks == devices * nodes == 1:
        return
    wanted = f"srun --nodes={nodes} --ntasks-per-node={devices}"
    if tasks != devices * nodes:
        raise UserError(
            f"training.devices: {devices} on {nodes} nodes, but Slurm has {tasks} tasks; start with {wanted}"
        )
    if "SLURM_STEP_ID" not in os.environ:
        raise UserError(f"training.devices: {tasks} tasks, but only this one was started; start with {wanted}")


def is_main_process() -> bool:
    """Whether this is the first of the processes that train together, also before a Trainer exists."""
    rank: int = getattr(rank_zero_only, "rank", 0)
    return rank == 0
