"""A lock on a directory, which the kernel releases when its process ends for any reason."""

import errno
import fcntl
import json
import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from diffexp.errors import EnvironmentFailure, writing
from diffexp.system.reading import open_regular

log = logging.getLogger(__name__)

LOCK_NAME = ".lock"
_PATIENCE = 5.0  # seconds within which a killed process has ended
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
_TAKEN = (errno.EACCES, errno.EAGAIN)


# The lock files, by device and inode, that this process holds.
_held: set[tuple[int, int]] = set()


def in_use(folder: Path) -> bool:
    """Whether a process has locked a folder; True also if this is unknown."""
    return _state(folder) != "free"


def holder_pid(folder: Path) -> int | None:
    """Return the process of this machine that holds a folder's lock now; None if there is none, or if it is unknown.

    The pid in the file alone does not count: after a crash, the system gives it to another process.
    """
    if _state(folder) != "held":
        return None
    try:
        holder = json.loads((folder / LOCK_NAME).read_text())
        return int(holder["pid"]) if holder["host"] == os.uname().nodename else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _state(folder: Path) -> Literal["free", "held", "unknown"]:
    path = folder / LOCK_NAME
    try:
        if _identity(path.lstat()) in _held:  # opening and closing the file would release the lock
            return "held"
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return "free"
    except OSError:
        return "unknown"
    try:
        fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return "held" if error.errno in _TAKEN else "unknown"
    finally:
        os.close(file)
    return "free"


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


@contextmanager
def locked(folder: Path, key: str) -> Iterator[None]:
    """Hold an exclusive lock on a folder within this context; create the folder if necessary.

    The lock is a POSIX record lock on the file `.lock`. The kernel (on NFS, the server) releases it when the process
    ends, even by SIGKILL. Forked processes do not hold it. The file names the holder.

    Args:
        folder: the directory.
        key: its config key, for messages.

    Raises:
        EnvironmentFailure: if another process holds the lock for more than a few seconds, or the disk is full.
        UserError: if the folder is not writable.
    """
    path = folder / LOCK_NAME
    with writing(f"{key}: {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        file = _acquired(path, key)
    identity = _identity(os.fstat(file))
    _held.add(identity)
    try:
        yield
    finally:
        _held.discard(identity)
        with suppress(OSError):  # the directory may be removed or replaced
            if _is_still_there(file, path):
                path.unlink()  # while locked: a waiting process notices and locks a new file
        os.close(file)


def open_lock(path: Path) -> int:
    """Open a lock file, creating it if there is none; return the descriptor.

    Raises:
        OSError: if the path is a link, whose target is not ours to change, or not a regular file.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, f"{path.name} is a symbolic link; remove it", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, f"{path.name} is not a regular file; remove it", str(path))
    return file


def _acquired(path: Path, key: str) -> int:
    deadline = time.monotonic() + _PATIENCE
    told = False
    while True:
        file = open_lock(path)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            if error.errno in _NO_LOCKS:
                log.warning(
                    "%s: this file system has no locks. Make sure that no other process trains in this folder.",
                    path.parent,
                )
                return open_lock(path)
            if error.errno not in _TAKEN:
                raise
        else:
            if _is_still_there(file, path):
                _sign(file)
                return file
            os.close(file)
            continue
        if time.monotonic() > deadline:
            raise EnvironmentFailure(f"{key}: {path.parent} is in use by {_holder(path)}. Stop it or wait for it.")
        if not told:
            log.warning("%s is in use by %s; waiting up to %g seconds", path.parent, _holder(path), _PATIENCE)
            told = True
        time.sleep(0.1)


def _is_still_there(file: int, path: Path) -> bool:
    """Whether the path still refers to the locked file, which the last holder may have removed."""
    try:
        return os.path.samestat(os.fstat(file), path.lstat())
    except FileNotFoundError:
        return False


def _sign(file: int) -> None:
    holder = {
        "host": os.uname().nodename,
        "pid": os.getpid(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with suppress(OSError):  # the lock also holds on a full disk
        os.truncate(file, 0)
        os.write(file, json.dumps(holder).encode())


def _holder(path: Path) -> str:
    try:
        with open_regular(path) as file:
            holder = json.load(file)
        job = f", Slurm job {holder['slurm_job']}" if holder["slurm_job"] else ""
        return f"process {holder['pid']} on {holder['host']}{job} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
