"""One try of a trial: run its training (or evaluation) in a process, monitor it, and record the outcome.

The same function runs a trial on a laptop and inside a Slurm job, so both write the same records.
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

from diffexp.config.trial import Trial
from diffexp.runs.directory import RUN_VARIABLE
from diffexp.sweeps.plan import PlannedTrial, Sweep
from diffexp.sweeps.race import race_trial
from diffexp.sweeps.search.hyperband import should_stop
from diffexp.sweeps.search.tpe import ask
from diffexp.sweeps.spec.file import SweepMetric
from diffexp.sweeps.state import ENDED, TrialState, history, locked, past_trials, progress, read_state, write_state
from diffexp.system.files import atomic_write_text

# A trial fails after so many successive crashes without a further step.
FRUITLESS_LIMIT = 3
_POLL = 0.2  # seconds between two checks of the process
_LOOK = 2.0  # seconds between two checks of its metrics
_PATIENCE = 1.0  # seconds to wait for a trial's lock, which a status check takes for a moment
_INSIST = 5.0  # seconds between two stop signals to a process

# "taken": another process runs it; "again": try it again; "early": what it trains depends on trials that have not
# ended; "over": nothing is left to do.
Verdict = Literal["over", "again", "taken", "early"]

# The file that `diffexp sweep cancel` writes, so that stopped trials do not restart.
CANCELLED = "cancelled"

_asking = threading.Lock()


@dataclass
class Stop:
    """Requests to running trials to stop.

    Attributes:
        asked: stop at the next step boundary, with a checkpoint.
        now: stop immediately; a resume starts from the latest checkpoint.
    """

    asked: bool = False
    now: bool = False


def try_trial(sweep: Sweep, index: int, environment: Mapping[str, str], stop: Stop) -> Verdict:
    """Run a trial, or resume it from its latest checkpoint, unless it has ended.

    Args:
        sweep: the sweep.
        index: the trial's index.
        environment: the environment of its process.
        stop: requests to stop it.
    """
    with locked(sweep.trial(index), patience=_PATIENCE) as lock:
        if lock is None:
            return "taken"
        planned = sweep.trial(index)  # another process may have chosen its parameters meanwhile
        record = read_state(planned)
        if record.state in ENDED:
            return "over"
        before, _ = progress(planned)
        fruitless = 0 if before > record.from_step else record.fruitless
        record = replace(record, fruitless=fruitless, from_step=before)
        planned, verdict = _asked(sweep, planned)
        return verdict or _run(sweep, planned, record, environment, stop, lock)


def _asked(sweep: Sweep, planned: PlannedTrial) -> tuple[PlannedTrial, Verdict | None]:
    """Return the trial, after a search has chosen its parameters if it had none, or why there is none to run."""
    with _asking:
        planned = sweep.trial(planned.index)
        if planned.trial is not None:
            return planned, None
        if sweep.file.method == "race":
            found = race_trial(sweep, planned.index)
            if not isinstance(found, Trial):
                return planned, "early" if found is None else "over"
            parameters = found.parameters
        else:
            parameters = ask(sweep.file, past_trials(sweep), sweep.seed, planned.index)
        atomic_write_text(planned.asked, json.dumps(parameters) + "\n")
        return sweep.trial(planned.index), None


def command_of(sweep: Sweep, planned: PlannedTrial) -> list[str]:
    """Return the command line of a trial: that of the sweep file with the trial's run directory."""
    assert planned.trial is not None
    assert planned.run is not None
    words = sweep.file.command.arguments(planned.trial)
    where = [f"run_dir={planned.run.path.absolute()}", "--resume"]
    if sweep.file.command.kind == "evaluate":
        where = [f"out={planned.run.path.absolute()}"]
    # -P: a random.py in the folder where the sweep was planned does not replace Python's
    return [sys.executable, "-P", "-m", "diffexp", *words, *where]


def _run(
    sweep: Sweep, planned: PlannedTrial, record: TrialState, environment: Mapping[str, str], stop: Stop, lock: int
) -> Verdict:
    record = replace(
        record,
        state="running",
        tries=record.tries + 1,
        began=time.time(),
        host=os.uname().nodename,
        job=environment.get("SLURM_JOB_ID", ""),
    )
    write_state(planned, record)
    watch = _Watch(sweep, planned)
    started = time.monotonic()
    process = start(sweep, planned, environment, lock)
    signalled = -_INSIST
    while process.poll() is None:
        ended_early = watch.stops()
        if (stop.asked or ended_early) and time.monotonic() - signalled > _INSIST:
            process.send_signal(signal.SIGTERM)  # repeated, because the process may not have had a handler yet
            signalled = time.monotonic()
        if stop.now:
            process.kill()
        time.sleep(_POLL)
    cancelled = (sweep.path / CANCELLED).exists()
    record.seconds += time.monotonic() - started
    record.step, record.steps = progress(planned)
    record.exit_code = process.returncode
    verdict = _settle(record, asked=stop.asked, cancelled=cancelled, early=watch.stopped)
    write_state(planned, record)
    return verdict


def _settle(record: TrialState, *, asked: bool, cancelled: bool, early: bool) -> Verdict:
    """Record the outcome of a try whose process has ended; return whether to try again.

    Only here does a try count as fruitless: a node that dies takes this process along, and the trial did not crash.
    """
    verdict: Verdict = "over"
    if record.exit_code == 0:
        record.state, record.fruitless = "done", 0
    elif early:
        record.state = "stopped"
    elif asked or cancelled:
        record.state, verdict = ("cancelled", "over") if cancelled else ("interrupted", "again")
    else:
        record.fruitless = 0 if record.step > record.from_step else record.fruitless + 1
        record.state, verdict = "interrupted", "again"
        if record.exit_code == 2 or record.fruitless >= FRUITLESS_LIMIT:
            record.state, verdict = "failed", "over"
    return verdict


def start(
    sweep: Sweep, planned: PlannedTrial, environment: Mapping[str, str], lock: int | None = None
) -> "subprocess.Popen[bytes]":
    """Start a trial's process in a new session, so that Ctrl-C in the terminal does not reach it directly."""
    sweep.check_plugins()
    planned.log.parent.mkdir(parents=True, exist_ok=True)
    # an earlier training in this process may have set it for its own other processes
    environment = {name: value for name, value in environment.items() if name != RUN_VARIABLE}
    for key in ("project", "entity"):  # the user's own variables count more
        if sweep.file.content.get(key):
            environment.setdefault(f"WANDB_{key.upper()}", sweep.file.content[key])
    with planned.log.open("ab") as out:
        return subprocess.Popen(
            command_of(sweep, planned),
            cwd=sweep.working_directory,
            env={**environment, "WANDB_RUN_ID": planned.run_id, "PYTHONSAFEPATH": "1"},  # -P for what it starts
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=() if lock is None else (lock,),
        )


class _Watch:
    """Checks a running trial's metric periodically and decides on its early termination."""

    def __init__(self, sweep: Sweep, planned: PlannedTrial) -> None:
        self.sweep = sweep
        self.planned = planned
        self.stopped = False
        self._looked = time.monotonic()
        self._known = -1

    def stops(self) -> bool:
        """Whether the trial should end early."""
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
