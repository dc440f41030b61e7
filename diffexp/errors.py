"""What a user can have done wrong, and what can fail around us: exceptions whose message is the whole explanation."""

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

# What a disk says that is full or in trouble.
TRANSIENT_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE)


class UserError(Exception):
    """A mistake in what the user gave us: a file, a key, a value, an argument.

    The message says what is wrong, where, and what to do. The command line prints it without a
    traceback and exits with 2.
    """


class EnvironmentFailure(Exception):  # noqa: N818  # a failure, not a mistake
    """What failed outside of what the user gave, and of our own code: a full disk, a directory that vanished.

    The message says what, where, what is safe, and what to do. The command line prints it without a traceback and
    exits with 1: the same command may succeed later.
    """


@contextmanager
def writing(what: str) -> Iterator[None]:
    """A context in which something is written.

    Args:
        what: the key or option that names the place, and the place: "out: samples.png".

    Raises:
        EnvironmentFailure: if it cannot be written, and that may pass: the disk is full.
        UserError: if it cannot be written for another reason.
    """
    try:
        yield
    except OSError as error:
        kind = EnvironmentFailure if error.errno in TRANSIENT_ERRNOS else UserError
        raise kind(f"{what} cannot be written: {error.strerror}") from error


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
    """``" Did you mean 'x'?"`` with the known word nearest to ``word``, or an empty string."""
    nearest = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""
