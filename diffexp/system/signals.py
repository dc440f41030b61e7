"""Handle the signals with which a launcher asks a process to end."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Slurm is usually configured to send USR1 or USR2 before a time limit or a preemption.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

_noted: list[int] = []
_waiting = 0


def defer_signals() -> None:
    """Only record signals from now on, because an exception at an arbitrary point leaves modules partly imported.

    Ctrl-C still raises KeyboardInterrupt. Signals that the parent process ignored are handled again.
    """
    _noted.clear()
    _listen(lambda number, _: _noted.append(number))


def exit_on_signal() -> None:
    """Exit on a signal from now on, with exit code 128 + n, after clean-up (SystemExit).

    For phases with nothing to save, such as reading data. A signal recorded before exits immediately.
    """
    _listen(_end)
    if _noted:
        _end(_noted[0], None)


@contextmanager
def defer_exit() -> Iterator[None]:
    """Delay an exit on a signal to the end of this context, for code that an exception would break.

    OmegaConf turns an exception at an arbitrary point into "'NoneType' object has no attribute …".
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
