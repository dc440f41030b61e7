"""How much memory this process may use."""

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_PROCESS = Path("/proc/self/cgroup")


def machine_memory() -> int:
    """Return the bytes of memory that this process may use.

    This is the machine's memory, or the smallest limit of a cgroup (a container), a Slurm job or `ulimit -v`.
    """
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_limits()])


def _limits() -> Iterator[int]:
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if address_space != resource.RLIM_INFINITY:
        yield address_space
    yield from _slurm_limits()
    for file in _cgroup_files():
        with suppress(OSError, ValueError):  # no such file in a container's view; "max" for no limit
            yield int(file.read_text())


def _slurm_limits() -> Iterator[int]:
    """Yield the memory that Slurm gives the job on this node; Slurm counts in MiB, and 0 means all."""
    per_node, per_cpu, cpus = (
        os.environ.get(name, "") for name in ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE")
    )
    if per_node.isdecimal() and int(per_node):
        yield int(per_node) * 2**20
    elif per_cpu.isdecimal() and cpus.isdecimal() and int(per_cpu) * int(cpus):
        yield int(per_cpu) * int(cpus) * 2**20


def _cgroup_files() -> Iterator[Path]:
    """Yield the files with the limits of this process's cgroup and of those around it."""
    try:
        lines = _PROCESS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        root, name = (_CGROUPS, "memory.max") if not controllers else (_CGROUPS / "memory", "memory.limit_in_bytes")
        if controllers and "memory" not in controllers.split(","):
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            yield folder / name
            if folder == root:
                break
