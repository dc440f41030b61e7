"""How much memory a process may use."""

import resource
from pathlib import Path

import pytest

from diffexp.system import memory
from diffexp.system.memory import machine_memory

GIB = 2**30


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine of 64 GiB without limits."""
    monkeypatch.setattr(memory.os, "sysconf", lambda name: {"SC_PHYS_PAGES": 16 * 2**20, "SC_PAGE_SIZE": 4096}[name])
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    monkeypatch.setattr(memory, "_PROCESS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "groups")
    for name in ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_limits_it_is_the_machine_s() -> None:
    assert machine_memory() == 64 * GIB


def test_the_smallest_of_a_cgroup_and_those_around_it(tmp_path: Path) -> None:
    write(tmp_path / "cgroup", "0::/user/job\n")
    write(tmp_path / "groups/user/job/memory.max", "max\n")
    assert machine_memory() == 64 * GIB
    write(tmp_path / "groups/user/memory.max", f"{8 * GIB}\n")
    assert machine_memory() == 8 * GIB
    write(tmp_path / "groups/memory.max", f"{4 * GIB}\n")
    assert machine_memory() == 4 * GIB


def test_cgroups_of_version_1(tmp_path: Path) -> None:
    write(tmp_path / "cgroup", "5:cpu,cpuacct:/job\n4:memory:/job\n")
    write(tmp_path / "groups/memory/job/memory.limit_in_bytes", f"{2 * GIB}\n")
    write(tmp_path / "groups/memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert machine_memory() == 2 * GIB


def test_a_slurm_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "1024")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "4")
    assert machine_memory() == 4 * GIB
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "2048")
    assert machine_memory() == 2 * GIB
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")  # all of the node's
    monkeypatch.delenv("SLURM_MEM_PER_CPU")
    assert machine_memory() == 64 * GIB


def test_a_limit_of_the_address_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: (3 * GIB, 3 * GIB))
    assert machine_memory() == 3 * GIB
