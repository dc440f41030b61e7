"""The signals that ask a process to end, by whatever launched it."""

import signal
import sys
from types import FrameType
from typing import NoReturn

# USR1 and USR2 are what Slurm is usually told to send before a time limit or a preemption.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def end_on_signals() -> None:
    """From now on a signal ends the process at once, with exit code 128 + n, but not without clean-up on the way.

    For times in which there is nothing to save: while modules are imported and data are read. Ctrl-C stays
    KeyboardInterrupt. Signals that whoever started the process had switched off are listened to again.
    """
    for number in SIGNALS:
        if number != signal.SIGINT:
            signal.signal(number, _end)


def _end(number: int, _: FrameType | None) -> NoReturn:
    sys.exit(128 + number)
