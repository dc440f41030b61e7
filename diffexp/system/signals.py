"""Handle the signals with which a launcher asks a process to end."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Slurm is usually configured to send USR1 or USR2 before a time limit or a preemption; a closed terminal sends HUP.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)

_noted: list[int] = []
_waiting = 0


def defer_signals() -> None:
    """Only record signals from now on, because an exception at an arbitrary point leaves modules partly imported.

    Ctrl-C still raises KeyboardInterrupt. Signals that the parent process ignored are handled again, except SIGHUP,
    which nohup ignores.
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


def handled_signals() -> list[signal.Signals]:
    """Return the `SIGNALS` to handle: without SIGHUP if nohup, or another parent process, ignores it."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in SIGNALS if number != signal.SIGHUP or not ignored]


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block `SIGNALS` within this context. A process started in it keeps them blocked and thus survives them.

    A terminal, timeout, systemd and Slurm signal all processes of a training, but only the main one can react to it. A
    worker that blocked signals itself would be unprotected for a moment.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def exit_when_parent_terminates(_: int = 0) -> None:
    """End this worker on a SIGTERM of its parent process, from now on; those of other processes have no effect.

    For a worker started in `signals_blocked`. multiprocessing sends its workers SIGTERM, and waits for them, when the
    parent exits. macOS does not tell who sent a signal; every SIGTERM ends a worker there.
    """
    if sys.platform == "darwin":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return

    def listen() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()


def _end(number: int, _: FrameType | None) -> None:
    if _waiting:
        _noted.append(number)
    else:
        sys.exit(128 + number)


def _listen(handler: "signal._HANDLER") -> None:
    for number in handled_signals():
        if number != signal.SIGINT:
            signal.signal(number, handler)
