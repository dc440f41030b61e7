"""How each trial stands: one small file a trial, written by whoever runs it, and a lock while it does."""

import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Literal

from diffexp.config.renamed import current_metric_name
from diffexp.runs.metrics import read_metrics
from diffexp.sweeps.plan import PlannedTrial, Sweep
from diffexp.sweeps.search.tpe import PastTrial
from diffexp.sweeps.spec.file import SweepMetric
from diffexp.system.files import atomic_write_text

# pending: not begun; interrupted: asked to stop, goes on from its checkpoint; lost: ended without a word;
# stopped: by early termination; cancelled: by `diffexp sweep cancel`
State = Literal["pending", "running", "interrupted", "lost", "done", "stopped", "failed", "cancelled"]

# States in which nothing is left to do.
ENDED: tuple[State, ...] = ("done", "stopped", "failed")


@dataclass
class TrialState:
    """How a trial stands.

    Attributes:
        state: see `State`.
        tries: how often it was begun.
        fruitless: how many tries in a row, the last included, have ended without getting a step further.
        from_step: the step that the last try began at.
        step: optimiser steps (or blocks of images) done, of `steps`.
        seconds: that it has run, all tries together.
        exit_code: of the last try.
        began: when the last try began, seconds since 1970.
        host, job: where: the machine, and the Slurm job.
    """

    state: State = "pending"
    tries: int = 0
    fruitless: int = 0
    from_step: int = 0
    step: int = 0
    steps: int = 0
    seconds: float = 0.0
    exit_code: int | None = None
    began: float = 0.0
    host: str = ""
    job: str = ""


def read_state(trial: PlannedTrial) -> TrialState:
    """How a trial stands."""
    try:
        record = TrialState(**json.loads(trial.state_file.read_text()))
    except FileNotFoundError:
        return TrialState()
    except (ValueError, TypeError):  # cut off by a loss of power: the run's own files say how far it is
        return TrialState("lost")
    if record.state == "running" and record.host == os.uname().nodename and not _is_locked(trial):
        record.state = "lost"
    if record.state not in ENDED:
        record.step, record.steps = progress(trial)
    return record


def write_state(trial: PlannedTrial, record: TrialState) -> None:
    """Keep how a trial stands."""
    atomic_write_text(trial.state_file, json.dumps(asdict(record)) + "\n")


def left(sweep: Sweep) -> list[PlannedTrial]:
    """The trials that have not ended."""
    return [trial for trial in sweep.trials() if read_state(trial).state not in ENDED]


def progress(trial: PlannedTrial) -> tuple[int, int]:
    """Steps done and wanted, as the run's own status.json tells; (0, 0) before it has begun."""
    if trial.run is None:
        return 0, 0
    try:
        status = json.loads(trial.run.status.read_text())
        return int(status["step"]), int(status["steps"])
    except (OSError, ValueError, KeyError):
        return 0, 0


def history(trial: PlannedTrial, metric: SweepMetric) -> list[float]:
    """A metric of a trial in the order in which it was logged."""
    if trial.run is None:
        return []
    name = current_metric_name(metric.name)
    return [row[name] for row in read_metrics(trial.run.metrics) if name in row]


def past_trials(sweep: Sweep) -> list[PastTrial]:
    """The trials that bayes has been asked for, as it learns from them."""
    metric = sweep.file.metric
    assert metric is not None
    found = []
    for trial in sweep.trials():
        if trial.trial is None:
            continue
        values = [metric.better(value) for value in history(trial, metric)]
        ended = read_state(trial).state in ENDED
        value = values[-1] if ended and values and values[-1] == values[-1] else None
        found.append(PastTrial(trial.trial.parameters, value, failed=ended and value is None))
    return found


def retry(sweep: Sweep) -> list[int]:
    """Make the failed trials pending again; which they are."""
    failed = []
    for trial in sweep.trials():
        record = read_state(trial)
        if record.state == "failed":
            record.state, record.fruitless = "pending", 0
            write_state(trial, record)
            failed.append(trial.index)
    return failed


def stop_orphan(trial: PlannedTrial) -> None:
    """Ask a trial's training on this machine to stop, also where whoever watched it was killed."""
    record = read_state(trial)
    if record.state == "running" and record.host == os.uname().nodename and trial.run is not None:
        with suppress(OSError, ValueError, KeyError):  # it has not begun, or has just ended
            os.kill(json.loads(trial.run.status.read_text())["pid"], signal.SIGTERM)


# --- locks ---------------------------------------------------------------------------------------


@contextmanager
def locked(trial: PlannedTrial, patience: float = 0.0) -> Iterator[int | None]:
    """Hold a trial's lock; gives its file descriptor, or None if another process has it for longer than `patience`.

    A process that is handed the descriptor holds the lock as well, until both have ended, however they end: a
    training whose supervisor was killed is not begun a second time beside itself.
    """
    trial.lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(trial.lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        deadline = time.monotonic() + patience
        while not (taken := _take(descriptor)) and time.monotonic() < deadline:
            time.sleep(0.1)
        yield descriptor if taken else None
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a network file system without locks: Slurm runs an array's task once anyway
        return True
    return True


def _is_locked(trial: PlannedTrial) -> bool:
    with locked(trial) as descriptor:
        return descriptor is None
