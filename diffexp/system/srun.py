"""Trainings whose processes srun has started, and trainings in a Slurm job that start their processes themselves."""

import os

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from diffexp.errors import UserError

_PSEUDO_STEPS = 0xFFFFFFF0  # Slurm's numbers for a batch script and the shell of salloc begin here


def srun_tasks() -> int | None:
    """Return the number of tasks that srun has started together with this process, or None if it was not srun.

    The name of the job says nothing: that of salloc and of `srun --pty bash` is often "interactive" or "bash".
    """
    step = os.environ.get("SLURM_STEP_ID")
    if step is None or "SLURM_PROCID" not in os.environ or int(step) >= _PSEUDO_STEPS:
        return None
    if TorchElasticEnvironment.detect():  # torchrun, which srun has started once for each node
        return None
    tasks = int(_variable("SLURM_STEP_NUM_TASKS"))
    # In the shell of `srun --pty bash`. An srun in that shell passes the port on, but no terminal.
    if "SLURM_PTY_PORT" in os.environ and (tasks == 1 or os.isatty(0)):
        return None
    return tasks


def _variable(name: str) -> str:
    """Return a variable that srun sets.

    Raises:
        UserError: without it, as in a container that gets some of Slurm's variables only.
    """
    if name not in os.environ:
        raise UserError(f"{name}: expected this variable of srun, got none. Pass all SLURM_* variables to diffexp.")
    return os.environ[name]


class SrunEnvironment(SLURMEnvironment):
    """Tells Lightning which of the processes of an srun this is.

    Lightning's own saving and requeueing is off: it saves inside the signal handler, between any two instructions,
    where weights may be partly updated.
    """

    def __init__(self) -> None:
        super().__init__(auto_requeue=False)

    @staticmethod
    def _validate_srun_used() -> None:
        """Do not warn that srun was not used, as Lightning does in jobs named "bash" or "interactive"."""

    @staticmethod
    def _validate_srun_variables() -> None:
        """Accept tasks that were requested without --ntasks-per-node, as by `salloc -n2`; `check_tasks` checks them."""

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Accept every setting; `check_tasks` has checked them."""

    def world_size(self) -> int:
        """Return the number of tasks of this srun; a job may have several."""
        return int(_variable("SLURM_STEP_NUM_TASKS"))

    @property
    def main_address(self) -> str:
        """The node of the first task."""
        if "MASTER_ADDR" not in os.environ:
            os.environ["MASTER_ADDR"] = self.resolve_root_node_address(_variable("SLURM_STEP_NODELIST"))
        return os.environ["MASTER_ADDR"]

    @property
    def main_port(self) -> int:
        """A port that the other trainings on the node do not use: those of other jobs, and of other sruns of this."""
        job, step = int(_variable("SLURM_JOB_ID")), int(_variable("SLURM_STEP_ID"))
        os.environ.setdefault("MASTER_PORT", str(15_000 + (job + 1_000 * step) % 10_000))
        return int(os.environ["MASTER_PORT"])


def cluster_plugins() -> list[ClusterEnvironment]:
    """Return the plugin that tells Lightning who starts a training's processes; none if Lightning finds out itself."""
    if srun_tasks() is not None:
        return [SrunEnvironment()]
    if "SLURM_NTASKS" in os.environ and not TorchElasticEnvironment.detect():
        return [LightningEnvironment()]  # Lightning would take this process for a task of srun
    return []


def check_tasks(devices: int, nodes: int) -> None:
    """Check that one process per device is started.

    Args:
        devices: devices on each node.
        nodes: number of nodes.

    Raises:
        UserError: if not. Lightning would silently train on fewer devices, or wait indefinitely.
    """
    command = f"srun --nodes={nodes} --ntasks-per-node={devices}"
    tasks = srun_tasks()
    if tasks is None:
        if nodes > 1 and "MASTER_ADDR" not in os.environ:
            raise UserError(
                f"training.num_nodes: expected a process per device on each of {nodes} nodes, got this one only. "
                f"Start with {command}, or on each node with MASTER_ADDR, MASTER_PORT and NODE_RANK set."
            )
        return
    wanted = str(devices) if nodes == 1 else f"{devices}(x{nodes})"  # as Slurm writes it
    got = _variable("SLURM_STEP_TASKS_PER_NODE")
    if got != wanted:
        raise UserError(
            f"training.devices: expected {devices * nodes} Slurm tasks ({devices} for each of {nodes} nodes), "
            f"got {got}. Start with {command}."
        )
