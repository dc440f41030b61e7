"""The tasks of an srun, as processes that have its variables: all start to train, or none."""

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import torch.multiprocessing as mp

from diffexp.errors import EnvironmentFailure, UserError
from diffexp.system import srun_start
from diffexp.system.srun_start import all_tasks

TASKS = 3


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def in_a_task(rank, folder, port, failing, absent):
    os.environ |= {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": str(rank),
        "SLURM_STEP_NUM_TASKS": str(TASKS),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    srun_start._PATIENCE = srun_start._LAST_WORDS = 2.0 if absent else 60.0
    outcome = "ready"
    try:
        with all_tasks() as ready:
            if rank == failing:
                raise UserError("run_dir: in use")
            if rank != absent:
                ready()
    except (UserError, EnvironmentFailure, SystemExit) as error:
        outcome = f"{type(error).__name__}: {error}"
    (folder / str(rank)).write_text(outcome)


def outcomes(folder, port, failing=None, absent=None):
    mp.start_processes(in_a_task, (folder, port, failing, absent), nprocs=TASKS, start_method="fork")
    return [(folder / str(rank)).read_text() for rank in range(TASKS)]


@pytest.mark.slow
def test_all_tasks_are_ready(tmp_path, port):
    assert outcomes(tmp_path, port) == ["ready"] * TASKS
    assert outcomes(tmp_path, port) == ["ready"] * TASKS  # the port is free at once


def connected(port):
    while True:
        with suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port), timeout=20)
        time.sleep(0.01)


def test_other_connections_are_no_tasks(port, monkeypatch):
    """As a scan for open ports makes them, before a task answers."""
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    deadline = time.monotonic() + 30
    with ThreadPoolExecutor() as pool:
        gathered = pool.submit(srun_start._gather, b"+", 2, port, deadline)
        for said in (b"", b"+", b"GET / HTTP/1.1\r\n\r\n"):
            with connected(port) as other:
                other.sendall(said)
        assert srun_start._report(b"+", ("127.0.0.1", port), deadline) == b"+"
        assert gathered.result() == b"+"


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 2])
def test_no_task_trains_if_one_cannot(failing, tmp_path, port):
    expected = ["SystemExit: 1"] * TASKS
    expected[failing] = "UserError: run_dir: in use"
    assert outcomes(tmp_path, port, failing=failing) == expected


@pytest.mark.slow
def test_a_task_that_does_not_answer_is_not_awaited_for_long(tmp_path, port):
    first, second, _ = outcomes(tmp_path, port, absent=2)
    assert first.startswith("EnvironmentFailure: srun: expected all 3 tasks to be ready within 2 s, but one did not")
    assert second != "ready"


def test_a_process_that_srun_did_not_start_waits_for_nobody(monkeypatch):
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    with all_tasks() as ready:
        ready()
