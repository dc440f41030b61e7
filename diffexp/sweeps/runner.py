"""One try at a trial: its training (or evaluation) as a process, watched, and what becomes of it on record.

The same function runs a trial on a laptop and inside a Slurm job, so that both keep the same records.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from diffexp.runs.directory import RUN_VARIABLE
from diffexp.sweeps.plan import PlannedTrial, Sweep
from diffexp.sweeps.search.hyperband import should_stop
from diffexp.sweeps.search.tpe import ask
from diffexp.sweeps.spec.file import SweepMetric
from diffexp.sweeps.state import ENDED, TrialState, history, locked, past_trials, progress, read_state, write_state
from diffexp.system.files import atomic_write_text

# A trial that crashes so often without getting a step further has failed.
FRUITLESS_LIMIT = 3
_POLL = 0.2  # seconds between two looks at the process
_LOOK = 2.0  # seconds between two looks at its metrics
_PATIENCE = 1.0  # seconds to wait for a trial's lock, which whoever looks at a running one takes for a moment
_INSIST = 5.0  # seconds after which a process that was told to stop is told again

# "taken": another process runs it; "again": it is to be tried again; "over": nothing is left to do.
Verdict = Literal["over", "again", "taken"]

# The file that `diffexp sweep cancel` leaves, so that what is stopped does not begin again.
CANCELLED = "cancelled"

_asking = threading.Lock()


@dataclass
class Stop:
    """What the outside asks of running trials.

    Attributes:
        asked: to end at the next step boundary, with a checkpoint.
        now: to end at once, from where the last checkpoint is.
    """

    asked: bool = False
    now: bool = False


def try_trial(sweep: Sweep, index: int, environment: Mapping[str, str], stop: Stop) -> Verdict:
    """Run a trial, or resume it from its latest checkpoint, unless nothing is left to do.

    Args:
        sweep: the sweep.
        index: of the trial.
        environment: of the process.
        stop: asks to end it at the next step boundary, with a checkpoint.
    """
    with locked(sweep.trial(index), patience=_PATIENCE) as lock:
        if lock is None:
            return "taken"
        planned = sweep.trial(index)  # another process may have asked bayes for it meanwhile
        record = read_state(planned)
        if record.state in ENDED:
            return "over"
        before, _ = progress(planned)
        fruitless = 0 if before > record.from_step else record.fruitless
        if fruitless >= FRUITLESS_LIMIT:
            write_state(planned, replace(record, state="failed"))
            return "over"
        record = replace(record, fruitless=fruitless, from_step=before)
        return _run(sweep, _asked(sweep, planned), record, environment, stop, lock)


def _asked(sweep: Sweep, planned: PlannedTrial) -> PlannedTrial:
    """The trial; asks bayes for its parameters where that has not been done."""
    with _asking:
        planned = sweep.trial(planned.index)
        if planned.trial is None:
            parameters = ask(sweep.file, past_trials(sweep), sweep.seed, planned.index)
            atomic_write_text(planned.asked, json.dumps(parameters) + "\n")
        return sweep.trial(planned.index)


def command_of(sweep: Sweep, planned: PlannedTrial) -> list[str]:
    """The command line of a trial: that of the sweep file, with its run directory."""
    assert planned.trial is not None
    assert planned.run is not None
    words = sweep.file.command.arguments(planned.trial)
    where = [f"run_dir={planned.run.path.absolute()}", "--resume"]
    if sweep.file.command.kind == "evaluate":
        where = [f"out={planned.run.path.absolute()}"]
    return [sys.executable, "-m", "diffexp", *words, *where]


def _run(
    sweep: Sweep, planned: PlannedTrial, record: TrialState, environment: Mapping[str, str], stop: Stop, lock: int
) -> Verdict:
    # counted before it starts: whatever happens to this process, the try is not forgotten
    record = replace(
        record,
        state="running",
        tries=record.tries + 1,
        fruitless=record.fruitless + 1,
        began=time.time(),
        host=os.uname().nodename,
        job=environment.get("SLURM_JOB_ID", ""),
    )
    write_state(planned, record)
    watch = _Watch(sweep, planned)
    started = time.monotonic()
    process = start(sweep, planned, environment, lock)
    told = -_INSIST
    while process.poll() is None:
        ended_early = watch.stops()
        if (stop.asked or ended_early) and time.monotonic() - told > _INSIST:
            process.send_signal(signal.SIGTERM)  # again and again: it may have come before anyone listened
            told = time.monotonic()
        if stop.now:
            process.kill()
        time.sleep(_POLL)
    cancelled = (sweep.path / CANCELLED).exists()
    record.seconds += time.monotonic() - started
    record.step, record.steps = progress(planned)
    record.exit_code = process.returncode
    if record.step > record.from_step:
        record.fruitless = 0
    verdict = _settle(record, asked=stop.asked, cancelled=cancelled, early=watch.stopped)
    write_state(planned, record)
    return verdict


def _settle(record: TrialState, *, asked: bool, cancelled: bool, early: bool) -> Verdict:
    """Say in the record what has become of a try that has ended, and whether another is wanted."""
    verdict: Verdict = "over"
    if record.exit_code == 0:
        record.state, record.fruitless = "done", 0
    elif early:
        record.state = "stopped"
    elif asked or cancelled:
        record.fruitless = max(0, record.fruitless - 1)  # a try that was not let go on says nothing
        record.state, verdict = ("cancelled", "over") if cancelled else ("interrupted", "again")
    elif record.exit_code == 2 or record.fruitless >= FRUITLESS_LIMIT:
        record.state = "failed"
    else:
        record.state, verdict = "interrupted", "again"
    return verdict


def start(
    sweep: Sweep, planned: PlannedTrial, environment: Mapping[str, str], lock: int | None = None
) -> "subprocess.Popen[bytes]":
    """Start a trial's process, in a session of its own: Ctrl-C in the terminal reaches it through us alone."""
    planned.log.parent.mkdir(parents=True, exist_ok=True)
    # where an earlier training of whoever started the sweep has told its own other processes to go
    environment = {name: value for name, value in environment.items() if name != RUN_VARIABLE}
    with planned.log.open("ab") as out:
        return subprocess.Popen(
            command_of(sweep, planned),
            cwd=sweep.working_directory,
            env={**environment, "WANDB_RUN_ID": planned.run_id},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=() if lock is None else (lock,),
        )


class _Watch:
    """Looks at a running trial's metric now and then, and decides about its early termination."""

    def __init__(self, sweep: Sweep, planned: PlannedTrial) -> None:
        self.sweep = sweep
        self.planned = planned
        self.stopped = False
        self._looked = time.monotonic()
        self._known = -1

    def stops(self) -> bool:
        """Whether it is to end."""
        rule, metric = self.sweep.file.hyperband, self.sweep.file.metric
        if self.stopped or rule is None or metric is None or time.monotonic() - self._looked < _LOOK:
            return self.stopped
        self._looked = time.monotonic()
        mine = self._values(self.planned, metric)
        if len(mine) > self._known:
            self._known = len(mine)
            trials = (each for each in self.sweep.trials() if each.index != self.planned.index)
            self.stopped = should_stop(mine, [self._values(each, metric) for each in trials], rule)
        return self.stopped

    @staticmethod
    def _values(planned: PlannedTrial, metric: SweepMetric) -> list[float]:
        return [metric.better(value) for value in history(planned, metric)]
