"""What a user can have done wrong, and what can fail around us: exceptions whose message is the whole explanation."""

import difflib
import errno
from collections.abc import Iterable

# What a disk says that is full or in trouble.
PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE)


class UserError(Exception):
    """A mistake in what the user gave us: a file, a key, a value, an argument.

    The message says what is wrong, where, and what to do. The command line prints it without a
    traceback and exits with 2.
    """


class OutsideError(Exception):
    """What failed outside of what the user gave, and of our own code: a full disk, a directory that vanished.

    The message says what, where, what is safe, and what to do. The command line prints it without a traceback and
    exits with 1: the same command may succeed later.
    """


def cannot_write(message: str, error: OSError) -> Exception:
    """The exception for a place that cannot be written: `OutsideError` if that may pass, else `UserError`."""
    kind = OutsideError if error.errno in PASSING else UserError
    return kind(f"{message}: {error.strerror}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` with the known word nearest to ``word``, or an empty string."""
    nearest = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""
