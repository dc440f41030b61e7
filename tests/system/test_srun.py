"""Which processes srun has started, by the variables that a real Slurm sets (tests/integration/test_slurm.py)."""

import os

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment

from diffexp.errors import UserError
from diffexp.system.srun import SrunEnvironment, check_tasks, cluster_plugins, srun_tasks

ALLOCATION = {"SLURM_JOB_ID": "12345", "SLURM_JOB_NAME": "interactive", "SLURM_NTASKS": "2"}
BATCH = {**ALLOCATION, "SLURM_JOB_NAME": "job.sh", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
SHELL_OF_SALLOC = {**ALLOCATION, "SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "2"}
TASK = {
    **ALLOCATION,
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2",
    "SLURM_STEP_NODELIST": "node[3-4]",
}
SHELL_OF_SRUN = {**TASK, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PTY_PORT": "4"}


@pytest.fixture
def started(monkeypatch):
    def as_in(variables):
        for name in [name for name in os.environ if name.startswith(("SLURM_", "MASTER_"))]:
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    yield as_in
    as_in({})


@pytest.mark.parametrize("variables", [{}, ALLOCATION, BATCH, SHELL_OF_SALLOC, SHELL_OF_SRUN])
def test_a_process_that_srun_did_not_start_starts_its_own(variables, started):
    started(variables)
    assert srun_tasks() is None
    check_tasks(devices=2, nodes=1)
    assert all(type(each) is LightningEnvironment for each in cluster_plugins())
    assert bool(cluster_plugins()) == bool(variables)
    with pytest.raises(UserError, match=r"on each of 2 nodes.*Start with srun --nodes=2 --ntasks-per-node=1"):
        check_tasks(devices=1, nodes=2)


@pytest.mark.parametrize("name", ["interactive", "bash", "train"])
def test_a_task_of_srun_is_one_whatever_the_name_of_the_job(name, started):
    started({**TASK, "SLURM_JOB_NAME": name, "SLURM_NTASKS": "8"})
    assert srun_tasks() == 2
    check_tasks(devices=2, nodes=1)
    (environment,) = cluster_plugins()
    assert isinstance(environment, SrunEnvironment)
    assert (environment.world_size(), environment.global_rank(), environment.local_rank()) == (2, 1, 1)
    assert environment.main_address == "node3"


def test_trainings_of_one_job_use_different_ports(started):
    ports = set()
    for step in range(3):
        started({**TASK, "SLURM_STEP_ID": str(step)})
        ports.add(SrunEnvironment().main_port)
    assert len(ports) == 3
    assert all(15_000 <= port < 25_000 for port in ports)


def test_an_srun_in_the_shell_of_another_has_tasks(started):
    started({**TASK, "SLURM_PTY_PORT": "4"})
    assert srun_tasks() == 2


@pytest.mark.parametrize(
    ("devices", "nodes", "tasks", "layout"),
    [(2, 1, "1", "1"), (2, 1, "2", "1(x2)"), (1, 2, "2", "2"), (2, 2, "4", "3,1")],
)
def test_tasks_that_are_not_one_per_device_are_refused(devices, nodes, tasks, layout, started):
    started({**TASK, "SLURM_STEP_NUM_TASKS": tasks, "SLURM_STEP_TASKS_PER_NODE": layout})
    with pytest.raises(UserError) as error:
        check_tasks(devices, nodes)
    assert f"got {layout}. Start with srun --nodes={nodes} --ntasks-per-node={devices}." in str(error.value)


def test_a_task_that_lacks_variables_of_srun_says_which(started):
    started({"SLURM_JOB_ID": "5", "SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "1"})
    with pytest.raises(UserError, match="SLURM_STEP_NUM_TASKS: expected this variable of srun, got none"):
        srun_tasks()
