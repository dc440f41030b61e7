"""What a task of a Slurm job array does: one try at a trial, in one process or, for several devices, as several."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from types import FrameType

from diffexp.sweeps.plan import Sweep
from diffexp.sweeps.records import ENDED, read_record
from diffexp.sweeps.slurm_environment import AGAIN
from diffexp.sweeps.trial import Stop, start, try_trial

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_PATIENCE = 300.0  # seconds that other tasks wait for the first one to have chosen the trial's parameters


def run_task(sweep: Sweep, index: int, environment: Mapping[str, str]) -> int:
    """Try a trial; the exit code: 0 over, 1 failed, `AGAIN` to be tried again.

    Of several tasks (SLURM_PROCID) the first one watches and keeps the records; the others only run their share.

    Raises:
        UserError: if there is no such trial.
    """
    sweep.check_index(index)
    stop = Stop()

    def asked(number: int, frame: FrameType | None) -> None:
        stop.asked = True

    for number in _SIGNALS:
        signal.signal(number, asked)
    if int(environment.get("SLURM_PROCID", "0")) > 0:
        return _share(sweep, index, environment, stop)
    sweep.check_unchanged([index])
    verdict = try_trial(sweep, index, environment, stop)
    if verdict == "over":
        return 1 if read_record(sweep, index).state == "failed" else 0
    return AGAIN


def _share(sweep: Sweep, index: int, environment: Mapping[str, str], stop: Stop) -> int:
    """Run this task's process of a trial on several devices; how it goes is the first task's to say."""
    deadline = time.monotonic() + _PATIENCE
    while sweep.trial(index) is None and time.monotonic() < deadline:
        time.sleep(0.5)
    trial = sweep.trial(index)
    if trial is None or read_record(sweep, index).state in ENDED:
        return 0
    process = start(sweep, trial, sweep.run(index), sweep.log(index), sweep.run_id(index), environment)
    told = 0.0
    while process.poll() is None:
        if stop.asked and time.monotonic() - told > 5:
            process.send_signal(signal.SIGTERM)
            told = time.monotonic()
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            continue
    by_signal = [128 + number for number in _SIGNALS] + [-number for number in _SIGNALS]
    return 0 if process.returncode in (0, *by_signal) else os.EX_SOFTWARE
