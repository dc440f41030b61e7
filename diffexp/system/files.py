"""Files that are whole or absent, whatever interrupts the writing."""

import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from diffexp.errors import UserError

CACHE_VARIABLE = "DIFFEXP_CACHE"


def cache_folder() -> Path:
    """Where diffexp keeps what it can recompute: $DIFFEXP_CACHE or ~/.cache/diffexp."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/diffexp").expanduser()


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write; it takes its place, and its folder is made, only when the block ends without an error.

    It is written aside in the same folder, flushed to the disk and renamed.

    Raises:
        OSError: as writing does; an older file of this name then stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # not only the process id: another machine that shares the folder may have the same
    aside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        _sync_folder(path.parent)
    finally:
        with suppress(OSError):  # its disk may be gone, which must not hide why
            aside.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Bring names to the disk: without it, a loss of power may undo a rename."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that need none
            raise
    finally:
        os.close(descriptor)


def require_folder(folder: Path) -> None:
    """See that a folder is still there: whoever took a run's directory away does not want a part of it made anew.

    Raises:
        FileNotFoundError: if it is not.
    """
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))


def is_temporary(path: Path) -> bool:
    """Whether a file is one that `atomic_write` was writing when its process was killed."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def remove_temporary_files(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder, if no live one writes there."""
    for path in folder.glob(".*.tmp"):
        if is_temporary(path):
            with suppress(OSError):
                path.unlink()


def atomic_write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_new(path: Path, text: str) -> bool:
    """Write a text file, whole, unless there is one already; whether it was written.

    Of several processes that try, one succeeds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
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
    """The SHA-256 of a file, in hexadecimal.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def damaged_name(path: Path) -> Path:
    """Where to keep a damaged file: NAME.damaged, or NAME.damaged-2, … if files of these names are kept already."""
    kept, number = path.with_name(f"{path.name}.damaged"), 2
    while kept.exists():
        kept, number = path.with_name(f"{path.name}.damaged-{number}"), number + 1
    return kept


def refuse_existing(path: Path, key: str, *, overwrite: bool) -> None:
    """Refuse to write a result over a file or folder that exists, unless the user asked for that.

    Args:
        path: the file or folder to be.
        key: the config key, or the option of the command line, that names it.
        overwrite: whether the user asked to replace it.

    Raises:
        UserError: if it exists and must stay.
    """
    try:
        exists = path.exists()
    except OSError as error:  # a name too long for the file system
        raise UserError(f"{key}: {path}: {error.strerror}") from error
    if exists and not overwrite:
        ask = "--overwrite" if key.startswith("--") else "overwrite=true"
        raise UserError(f"{key}: expected a new file, got {path}, which exists. Give another {key}, or {ask}.")


def refuse_others(folder: Path, *names: str) -> None:
    """Refuse a folder `out` that holds somebody else's files of names that an evaluation writes.

    Raises:
        UserError: naming the first of them.
    """
    for name in names:
        if (folder / name).exists():
            raise UserError(f"out: expected a folder without another {name}, got {folder}. Give another out.")


def check_writable(path: Path, key: str) -> None:
    """Refuse a place where nothing can be written, before there is anything to write.

    Args:
        path: the file or folder to be; it need not exist.
        key: the config key that asks for it, for the message.

    Raises:
        UserError: if the nearest folder that exists is not writable, or is no folder.
    """
    try:
        parent = next(each for each in [path, *path.absolute().parents] if each.exists())
    except OSError as error:
        raise UserError(f"{key}: {path}: {error.strerror}") from error
    folder = parent.parent if parent == path and parent.is_file() else parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"{key}: {folder} cannot be written to")
