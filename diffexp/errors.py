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


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` with the known word nearest to ``word``, or an empty string."""
    nearest = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""
