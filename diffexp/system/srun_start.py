"""The start of a training by srun: its tasks train only if all of them can, and the first alone locks the directory."""

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from diffexp.errors import EnvironmentFailure
from diffexp.system.srun import SrunEnvironment, srun_tasks

_PATIENCE = 600.0  # seconds for tasks that import and read data more slowly
_LAST_WORDS = 30.0  # seconds in which a task that has failed tells the others
_GREETING = 10.0  # seconds in which a connection says which task it is
_READY, _FAILED = b"+", b"-"


@contextmanager
def all_tasks() -> Iterator[Callable[[], None]]:
    """Yield a function that a task of srun calls when it is ready to train, and that returns when all are.

    If a task fails before, for example the first one because another process trains in the directory, the others exit.
    Without this, they would wait for it until Lightning's time limit of 30 minutes, as srun ends no task because of
    another one by default. Does nothing in a process that srun did not start.

    Raises:
        EnvironmentFailure: if a task does not answer.
        SystemExit: if a task has failed; it prints the reason.
    """
    tasks = srun_tasks()
    if tasks is None or tasks == 1:
        yield lambda: None
        return
    met = False

    def ready() -> None:
        nonlocal met
        met = True
        try:
            outcome = _meet(_READY, tasks, _PATIENCE)
        except OSError as error:
            raise EnvironmentFailure(
                f"srun: expected all {tasks} tasks to be ready within {_PATIENCE:.0f} s, but one did not answer "
                f"({error}). See what the tasks have printed, and start again."
            ) from error
        if outcome != _READY:
            sys.exit(1)

    try:
        yield ready
    except BaseException:
        if not met:
            with suppress(OSError):
                _meet(_FAILED, tasks, _LAST_WORDS)
        raise


def _meet(own: bytes, tasks: int, patience: float) -> bytes:
    """Tell the other tasks how far this one is; return `_READY` if all are.

    Raises:
        OSError: if a task does not answer in time.
    """
    environment, deadline = SrunEnvironment(), time.monotonic() + patience
    place = (environment.main_address, environment.main_port)
    return _gather(own, tasks, place[1], deadline) if environment.global_rank() == 0 else _report(own, place, deadline)


def _gather(own: bytes, tasks: int, port: int, deadline: float) -> bytes:
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    others: list[socket.socket] = []
    answers = [own]
    try:
        with socket.create_server(("", port), family=family, backlog=tasks, dualstack_ipv6=dual) as server:
            while len(others) < tasks - 1:
                server.settimeout(_left(deadline))
                each = server.accept()[0]
                answer = _answer(each)
                if answer is None:
                    each.close()
                else:
                    others.append(each)
                    answers.append(answer)
        outcome = _READY if set(answers) == {_READY} else _FAILED
        for each in others:
            each.settimeout(_left(deadline))
            each.sendall(outcome)
            each.recv(1)  # until the other side has closed, so that the port is free at once
        return outcome
    finally:
        for each in others:
            each.close()


def _answer(other: socket.socket) -> bytes | None:
    """Return what a task says; None for other connections to this port, such as a scan for open ports."""
    step, said = _step(), b""
    other.settimeout(_GREETING)
    with suppress(OSError):
        while len(said) <= len(step) and (more := other.recv(len(step) + 1 - len(said))):
            said += more
    answer = said.removeprefix(step)
    return answer if said.startswith(step) and answer in (_READY, _FAILED) else None


def _step() -> bytes:
    return f"{os.environ['SLURM_JOB_ID']}.{os.environ['SLURM_STEP_ID']} ".encode()


def _report(own: bytes, place: tuple[str, int], deadline: float) -> bytes:
    while True:
        try:
            first = socket.create_connection(place, timeout=_left(deadline))
        except (ConnectionError, socket.gaierror):  # it does not listen yet
            time.sleep(0.2)
            continue
        with first:
            first.settimeout(_left(deadline))
            first.sendall(_step() + own)
            return first.recv(1) or _FAILED  # nothing if it has ended meanwhile


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left
