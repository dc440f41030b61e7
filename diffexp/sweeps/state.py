"""The state of each trial: one small file per trial, written by the process that runs it and holds its lock."""

import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from diffexp.config.renamed import current_metric_name
from diffexp.errors import writing
from diffexp.runs.metrics import read_metrics
from diffexp.sweeps.plan import PlannedTrial, Sweep
from diffexp.sweeps.search.tpe import PastTrial
from diffexp.sweeps.spec.file import SweepMetric
from diffexp.system.files import atomic_write_text
from diffexp.system.locks import holder_pid, open_lock

# pending: not started; interrupted: stopped on request or crashed, resumes from its checkpoint; lost: ended without
# a record; stopped: by early termination; cancelled: by `diffexp sweep cancel`
State = Literal["pending", "running", "interrupted", "lost", "done", "stopped", "failed", "cancelled"]

# States of trials that do not run again.
ENDED: tuple[State, ...] = ("done", "stopped", "failed")


@dataclass
class TrialState:
    """The recorded state of a trial.

    Attributes:
        state: one of `State`.
        tries: the number of tries started.
        fruitless: the number of successive tries that crashed without a further step.
        from_step: the step at which the last try started.
        step: optimiser steps (or blocks of images) done.
        steps: optimiser steps (or blocks of images) in total.
        seconds: run time over all tries.
        exit_code: the exit code of the last try.
        began: the start of the last try, in seconds since 1970.
        host: the machine of the last try.
        job: the Slurm job of the last try.
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
    """Read the state of a trial."""
    try:
        record = TrialState(**json.loads(trial.state_file.read_text()))
    except FileNotFoundError:
        return TrialState()
    except (ValueError, TypeError):
        return TrialState("lost")
    if not _is_sound(record):
        return TrialState("lost")
    if record.state == "running" and record.host == os.uname().nodename and not _is_locked(trial):
        record.state = "lost"
    if record.state not in ENDED:
        record.step, record.steps = progress(trial)
    return record


def _is_sound(record: TrialState) -> bool:
    """Whether a record has the types that diffexp writes. A damaged one counts as lost; the run's files remain."""
    counts = (record.tries, record.fruitless, record.from_step, record.step, record.steps)
    numbers = (*counts, record.seconds, record.began)
    return (
        record.state in get_args(State)
        and all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in numbers)
        and isinstance(record.exit_code, (int, type(None)))
        and all(isinstance(text, str) for text in (record.host, record.job))
    )


def write_state(trial: PlannedTrial, record: TrialState) -> None:
    """Write the state of a trial atomically."""
    atomic_write_text(trial.state_file, json.dumps(asdict(record)) + "\n")


def progress(trial: PlannedTrial) -> tuple[int, int]:
    """Return (steps done, steps in total) from the run's status.json; (0, 0) before it has started."""
    if trial.run is None:
        return 0, 0
    status = trial.run.read_status()
    return status.get("step", 0), status.get("steps", 0)


def history(trial: PlannedTrial, metric: SweepMetric) -> list[float]:
    """Return the values of a trial's metric in the order in which they were logged."""
    if trial.run is None:
        return []
    name = current_metric_name(metric.name)
    return [row[name] for row in read_metrics(trial.run.metrics) if name in row]


def past_trials(sweep: Sweep) -> list[PastTrial]:
    """Return the trials with known parameters, as Bayesian search learns from them."""
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
    """Reset the failed trials to pending and return their indices."""
    failed = []
    for trial in sweep.trials():
        record = read_state(trial)
        if record.state == "failed":
            record.state, record.fruitless = "pending", 0
            write_state(trial, record)
            failed.append(trial.index)
    return failed


def stop_orphan(trial: PlannedTrial) -> None:
    """Signal a trial's training on this machine to stop, even if its supervisor was killed."""
    pid = holder_pid(trial.run.path) if trial.run is not None else None
    if pid is not None:
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(pid, signal.SIGTERM)


# --- locks ---------------------------------------------------------------------------------------


@contextmanager
def locked(trial: PlannedTrial, patience: float = 0.0) -> Iterator[int | None]:
    """Hold a trial's lock; yield its file descriptor, or None if another process holds it longer than `patience`.

    A child process that inherits the descriptor also holds the lock, which is free once both have ended in any way.
    So a training whose supervisor was killed is never started a second time while it runs.
    """
    with writing(str(trial.lock)):
        trial.lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = open_lock(trial.lock)
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
    except OSError:  # a network file system without locks; Slurm runs each array task only once anyway
        return True
    return True


def _is_locked(trial: PlannedTrial) -> bool:
    with locked(trial) as descriptor:
        return descriptor is None
