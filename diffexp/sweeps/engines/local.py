"""The local engine: runs a few trials at a time, each in a separate process, without a server or an account."""

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar

from diffexp.config.schemas.engines import LocalEngineConfig
from diffexp.errors import UserError
from diffexp.sweeps.engines.base import Engine
from diffexp.sweeps.engines.slurm_environment import without_slurm
from diffexp.sweeps.plan import Sweep
from diffexp.sweeps.race import unfinished
from diffexp.sweeps.results import best_setting, is_target_reached, rows, told_value
from diffexp.sweeps.runner import CANCELLED, Stop, try_trial
from diffexp.sweeps.state import ENDED, TrialState, read_state
from diffexp.system.terminal import progress_bar, say

if TYPE_CHECKING:
    from tqdm import tqdm

_LOOK = 1.0  # seconds between two updates of the progress bar
_WAIT = 1.0  # seconds before checking again a trial that another process runs


def slots(workers: int | None, devices: Sequence[str], each: int) -> list[dict[str, str]]:
    """Return the environment of each concurrent trial, with its GPUs and threads.

    Args:
        workers: the number of concurrent trials; None means one per group of devices, or one.
        devices: the GPUs to divide among the trials; if empty, every trial may use all.
        each: devices per trial.

    Raises:
        UserError: if there are too few devices.
    """
    if devices and len(devices) < each:
        raise UserError(f"devices: expected at least {each} for a trial (training.devices), got {len(devices)}.")
    groups = [",".join(devices[start : start + each]) for start in range(0, len(devices) - each + 1, each)]
    if groups and workers is not None and workers > len(groups):
        raise UserError(
            f"workers: expected at most {len(groups)} with {len(devices)} devices and {each} per trial, got {workers}."
        )
    count = workers or len(groups) or 1
    environment = without_slurm(os.environ)
    if "OMP_NUM_THREADS" not in environment:
        # torch's threads wait for each other, so more threads than cores are slower than one
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // (count * each if not groups else count)))
    return [{**environment, **({"CUDA_VISIBLE_DEVICES": groups[slot]} if groups else {})} for slot in range(count)]


class LocalRun:
    """Runs the unfinished trials of a sweep.

    Args:
        sweep: the sweep.
        environments: one per concurrent trial, from `slots`.
    """

    def __init__(self, sweep: Sweep, environments: list[dict[str, str]]) -> None:
        self.sweep = sweep
        self.environments = environments
        self.stop = Stop()
        self._waiting = deque(trial.index for trial in unfinished(sweep))
        sweep.check_unchanged(self._waiting)
        self._lock = threading.Lock()
        self._errors: list[BaseException] = []

    def run(self) -> bool:
        """Run until all trials have ended or Ctrl-C; return whether all have ended.

        Ctrl-C stops the running trials at their next step; a second one kills them.
        """
        (self.sweep.path / CANCELLED).unlink(missing_ok=True)
        threads = [threading.Thread(target=self._work, args=(each,), daemon=True) for each in self.environments]
        handlers = {
            number: signal.signal(number, self._asked) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
        try:
            for thread in threads:
                thread.start()
            self._show(threads)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if self._errors:
            raise self._errors[0]
        return not unfinished(self.sweep)

    def _asked(self, number: int, _: FrameType | None) -> None:
        self.stop.now = self.stop.asked and number == signal.SIGINT
        if not self.stop.asked:
            say("stopping: running trials save a checkpoint first (Ctrl-C again kills them)")
        self.stop.asked = True

    # --- workers

    def _work(self, environment: dict[str, str]) -> None:
        try:
            while not self.stop.asked:
                with self._lock:
                    if not self._waiting or is_target_reached(self.sweep):
                        return
                    index = self._waiting.popleft()
                verdict = try_trial(self.sweep, index, environment, self.stop)
                with self._lock:
                    if verdict == "again":
                        self._waiting.appendleft(index)
                    elif verdict == "early":  # it waits for the trials with lower numbers
                        self._waiting = deque(sorted([index, *self._waiting]))
                    elif verdict == "taken":
                        self._waiting.append(index)
                if verdict in ("taken", "early"):
                    time.sleep(_WAIT)
                elif verdict == "over":
                    self._tell(index)
        except BaseException as error:
            self._errors.append(error)
            self.stop.asked = True

    # --- progress

    def _tell(self, index: int) -> None:
        record = read_state(self.sweep.trial(index))
        row = next((each for each in rows(self.sweep) if each.index == index), None)
        if row is None:  # a race has ended without it
            return
        line = f"{index:04d} {row.name}: {record.state}{told_value(row)}, {record.seconds:.0f} s"
        if record.state == "failed":
            line += f"; see {self.sweep.trial(index).log}"
        say(line)

    def _show(self, threads: list[threading.Thread]) -> None:
        """Show a progress bar over all trials until the workers finish; its length includes parts of running trials."""
        records = self.records()
        with progress_bar(self._count(records), len(self.sweep), None, initial=_shares(records)) as bar:
            while any(thread.is_alive() for thread in threads):
                self._update(bar)
                self.stop.asked |= (self.sweep.path / CANCELLED).exists()
                time.sleep(_LOOK)
            self._update(bar)

    def _update(self, bar: "tqdm[Any]") -> None:
        records = self.records()
        bar.n = _shares(records)
        bar.set_description_str(self._count(records), refresh=False)
        bar.set_postfix_str(self._summary(records))

    def _count(self, records: list[TrialState]) -> str:
        ended = sum(record.state in ENDED for record in records)
        return f"{self.sweep.file.name}: {ended} of {len(records)} trials"

    def records(self) -> list[TrialState]:
        """Return the state of each trial."""
        return [read_state(trial) for trial in self.sweep.trials()]

    def _summary(self, records: list[TrialState]) -> str:
        counts = {state: sum(record.state == state for record in records) for state in ("done", "running", "failed")}
        parts = [f"{count} {state}" for state, count in counts.items()]
        stopped = sum(record.state == "stopped" for record in records)
        parts += [f"{stopped} stopped early"] if stopped else []
        best = best_setting(self.sweep)
        parts += [f"best {best.summary()} ({best.name})"] if best is not None else []
        return ", ".join(parts)


def _shares(records: list[TrialState]) -> float:
    """Return the number of ended trials plus the completed fractions of the others."""
    return sum(1.0 if each.state in ENDED else each.step / each.steps if each.steps else 0.0 for each in records)


class LocalEngine(Engine):
    """Runs a sweep on this machine and waits for it.

    Args:
        config: the number of concurrent trials and their devices.
    """

    is_blocking: ClassVar[bool] = True
    config: LocalEngineConfig

    def submit(self, sweep: Sweep) -> list[str]:
        """Run the unfinished trials, and those that an extension adds meanwhile, until all have ended or Ctrl-C."""
        environments = slots(self.config.workers, self.config.devices, sweep.devices)
        while LocalRun(sweep, environments).run():
            extended = Sweep(sweep.path)
            if len(extended) == len(sweep):
                break
            say(f"{sweep.path}: extended from {len(sweep)} to {len(extended)} trials")
            sweep = extended
        return []
