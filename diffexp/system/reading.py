"""Read files that others wrote: only regular ones; and distinguish the machine's failures from the file's faults."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from diffexp.errors import EnvironmentFailure

# Error numbers that come from the path or the file itself: trying again is useless.
_OF_THE_FILE = frozenset(
    (
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EACCES, errno.EPERM),
        *(errno.ELOOP, errno.ENAMETOOLONG, errno.EFBIG, errno.EOVERFLOW),
    )
)


class ReadFailure(EnvironmentFailure):  # as its base
    """A failure to read data. It may occur on one of several processes only."""


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file, or a link to one, for reading.

    A FIFO would wait for a writer, and a device may never end.

    Raises:
        OSError: if the path is anything else, or cannot be opened.
    """
    require_regular(path)
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    try:
        _require_regular(os.fstat(file.fileno()).st_mode, path)  # again: it may have been replaced
    except OSError:
        file.close()
        raise
    return file


def require_regular(path: Path) -> None:
    """Check that a path is a regular file, or a link to one, for readers that open it by themselves.

    Raises:
        OSError: if it is anything else.
    """
    _require_regular(path.stat().st_mode, path)


def _require_regular(mode: int, path: Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


@contextmanager
def reading(place: Path) -> Iterator[None]:
    """Let an `OSError` in the context pass if it comes from the file, and translate it if the machine failed.

    Args:
        place: what is read, for the message.

    Raises:
        ReadFailure: for an error of a disk or a network, or if memory or open files ran out.
    """
    try:
        yield
    except MemoryError as error:
        raise ReadFailure(f"{place}: cannot be read: the memory does not suffice.") from error
    except OSError as error:
        if error.errno is None or error.errno in _OF_THE_FILE:
            raise
        raise ReadFailure(
            f"{place}: cannot be read: {error.strerror}. Check the disk or the network, then try again."
        ) from error
