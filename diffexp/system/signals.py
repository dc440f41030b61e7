"""The signals that ask a process to end, by whatever launched it."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# USR1 and USR2 are what Slurm is usually told to send before a time limit or a preemption.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

_noted: list[int] = []
_waiting = 0


def defer_signals() -> None:
    """From now on signals are noted only: an exception out of nowhere leaves half-imported modules, and odd errors.

    Ctrl-C stays KeyboardInterrupt. Signals that whoever started the process had switched off are listened to again.
    """
    _noted.clear()
    _listen(lambda number, _: _noted.append(number))


def exit_on_signal() -> None:
    """From now on a signal ends the process at once, with exit code 128 + n, but not without clean-up on the way.

    For times in which there is nothing to save, as while data are read. One that was noted ends it here.
    """
    _listen(_end)
    if _noted:
        _end(_noted[0], None)


@contextmanager
def defer_exit() -> Iterator[None]:
    """A signal that would end the process at once does so at the end of this; for code that an exception would break.

    OmegaConf turns one out of nowhere into "'NoneType' object has no attribute …".
    """
    global _waiting
    _waiting += 1
    try:
        yield
    finally:
        _waiting -= 1
        if not _waiting and _noted and signal.getsignal(_noted[0]) is _end:
            _end(_noted.pop(0), None)


def _end(number: int, _: FrameType | None) -> None:
    if _waiting:
        _noted.append(number)
    else:
        sys.exit(128 + number)


def _listen(handler: "signal._HANDLER") -> None:
    for number in SIGNALS:
        if number != signal.SIGINT:
            signal.signal(number, handler)
