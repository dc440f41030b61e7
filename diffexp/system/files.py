"""Atomic writing: a file is either complete or absent, whatever interrupts the process."""

import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from diffexp.errors import EnvironmentFailure, UserError, file_error
from diffexp.system.reading import open_regular

CACHE_VARIABLE = "DIFFEXP_CACHE"


def cache_folder() -> Path:
    """Return the folder for recomputable files: $DIFFEXP_CACHE or ~/.cache/diffexp."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/diffexp").expanduser()


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces `path` only if the block ends without an error. Creates its folder.

    The data goes to a temporary file in the same folder, which is flushed to disk and renamed.

    Raises:
        OSError: if writing fails; an older file of this name then remains unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    try:
        with aside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        _sync_folder(path.parent)
    finally:
        with suppress(OSError):  # if the disk is gone, keep the original error
            aside.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Flush a folder to disk, without which a power failure may undo a rename."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that need no flush
            raise
    finally:
        os.close(descriptor)


def require_folder(folder: Path) -> None:
    """Check that a folder still exists, so that a run's directory that a user removed is not partly recreated.

    Raises:
        FileNotFoundError: if it does not.
    """
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))


def is_temporary(path: Path) -> bool:
    """Whether a file is a temporary file of `atomic_write`."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def remove_temporary_files(folder: Path) -> None:
    """Remove the temporary files of killed processes in a folder to which no live process writes."""
    for path in folder.glob(".*.tmp"):
        if is_temporary(path):
            with suppress(OSError):
                path.unlink()


def atomic_write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_write(path) as file:
        file.write(text.encode())


def atomic_symlink(path: Path, target: str) -> None:
    """Make `path` a symbolic link to `target`, relative to its folder; an older link is replaced atomically.

    Raises:
        OSError: if it cannot be written; an older link then remains unchanged.
    """
    aside = _aside(path)
    try:
        os.symlink(target, aside)
        aside.replace(path)
        _sync_folder(path.parent)
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def _aside(path: Path) -> Path:
    """Return a new name for a temporary file that will replace `path`."""
    # not only the process ID, which a process on another machine with this folder may share
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def write_new(path: Path, text: str) -> bool:
    """Write a text file atomically unless it exists, and return whether it was written.

    If several processes try at once, exactly one succeeds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    try:
        with aside.open("xb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        os.link(aside, path)
    except FileExistsError:
        return False
    finally:
        aside.unlink(missing_ok=True)
    return True


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Raises:
        UserError: if there is no such file, or it may not be read.
        EnvironmentFailure: if its file system fails.
    """
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise file_error(error, f"{path}: cannot be read: {error.strerror}.") from error


def damaged_name(path: Path) -> Path:
    """Return an unused name for a damaged file: NAME.damaged, NAME.damaged-2, …"""
    return unused_name(path, "damaged")


def unused_name(path: Path, ending: str) -> Path:
    """Return an unused name for a file that is kept for the user only: NAME.ENDING, NAME.ENDING-2, …"""
    kept, number = path.with_name(f"{path.name}.{ending}"), 2
    while kept.exists():
        kept, number = path.with_name(f"{path.name}.{ending}-{number}"), number + 1
    return kept


def refuse_existing(path: Path, key: str, *, overwrite: bool) -> None:
    """Check that a result does not replace an existing file or folder, unless requested.

    Args:
        path: file or folder of the result.
        key: its config key or command-line option, for messages.
        overwrite: whether the user requested to replace it.

    Raises:
        UserError: if it exists and `overwrite` is false.
    """
    try:
        exists = path.exists()
    except OSError as error:  # a name too long for the file system
        raise file_error(error, f"{key}: {path}: cannot be read: {error.strerror}.") from error
    if exists and not overwrite:
        ask = "--overwrite" if key.startswith("--") else "overwrite=true"
        raise UserError(f"{key}: expected a new file, got {path}, which exists. Give another {key}, or {ask}.")


def refuse_others(folder: Path, *names: str) -> None:
    """Check that a folder `out` has no foreign files with names that an evaluation writes.

    Raises:
        UserError: for the first of them.
    """
    for name in names:
        if (folder / name).exists():
            raise UserError(f"out: expected a folder without another {name}, got {folder}. Give another out.")


def check_writable(path: Path, key: str) -> None:
    """Check that a path can be written before there is anything to write.

    Args:
        path: the file or folder, which need not exist.
        key: its config key, for messages.

    Raises:
        UserError: if its nearest existing parent is not a writable folder.
        EnvironmentFailure: if its file system is read-only or fails.
    """
    try:
        parent = next(each for each in [path, *path.absolute().parents] if each.exists())
    except OSError as error:
        raise file_error(error, f"{key}: {path}: cannot be read: {error.strerror}.") from error
    folder = parent.parent if parent == path and parent.is_file() else parent
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise EnvironmentFailure(f"{key}: {path} cannot be written: {os.strerror(errno.EROFS)}.")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"{key}: expected a writable folder, got {folder}.")
