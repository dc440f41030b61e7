"""Exceptions for invalid input and for failures of the environment; their messages need no traceback."""

import difflib
import errno
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

# Error numbers of a machine that fails. No path in the input causes them, and the same command may succeed later.
TRANSIENT_ERRNOS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS),  # a full or read-only disk
    *(errno.EIO, errno.ENXIO, errno.ENODEV, errno.EBUSY),  # a failing disk
    *(errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ENOLCK),  # a network file system
    *(errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN),  # no memory, file or process left
)


class UserError(Exception):
    """An error in the user's input: a file, a key, a value or an argument.

    The message names the source, the problem and the remedy. The command line prints it without a traceback and exits
    with 2.
    """


class EnvironmentFailure(Exception):  # noqa: N818  # a failure, not a mistake
    """A failure outside both the user's input and diffexp's code: a full disk, a directory that vanished.

    The message names the failure, its place, what is safe, and the remedy. The command line prints it without a
    traceback and exits with 1: the same command may succeed later.
    """


def require_posix() -> None:
    """Check that diffexp runs on this operating system; its locks and signals are POSIX's.

    Raises:
        UserError: on Windows.
    """
    if sys.platform == "win32":
        raise UserError("diffexp: expected Linux or macOS, got Windows. Use WSL 2: https://aka.ms/wsl.")


def file_error(error: OSError, message: str) -> UserError | EnvironmentFailure:
    """Return the exception for an `OSError`: a failure of the machine, or a mistake such as a wrong path."""
    return (EnvironmentFailure if error.errno in TRANSIENT_ERRNOS else UserError)(message)


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Translate an `OSError` in the context into an error that names the place being written.

    Args:
        what: the key or option that names the place, and the place: "out: samples.png".

    Raises:
        EnvironmentFailure: if the machine fails, as with a full or read-only disk.
        UserError: if writing fails for another reason.
    """
    try:
        yield
    except OSError as error:
        raise file_error(error, f"{what} cannot be written: {error.strerror}.") from error


@contextmanager
def requires_extra(what: str, extra: str) -> Iterator[None]:
    """A context that imports packages which only an extra of diffexp installs.

    Args:
        what: the key or command that needs them, for the message.
        extra: the name of the extra in pyproject.toml.

    Raises:
        UserError: if a package is missing, with the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or str(error)).split(".")[0]
        if package == "diffexp":
            raise
        raise UserError(
            f"{what}: the package {package} is not installed. Run pip install 'diffexp[{extra}]'."
        ) from error


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` with the known word nearest to `word`, or an empty string."""
    words = list(known)
    swapped = [each for each in words if sorted(each) == sorted(word)]  # difflib knows no exchanged letters
    nearest = swapped or difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""
