"""The work of an engine's job: one try of a trial, in one process or, for several devices, in several."""

import math
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from types import FrameType

from diffexp.sweeps.engines.base import AGAIN, Engine
from diffexp.sweeps.plan import Sweep
from diffexp.sweeps.runner import Stop, start, try_trial
from diffexp.sweeps.state import ENDED, read_state

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_PATIENCE = 300.0  # seconds that other tasks wait for the first one to choose the trial's parameters
_PATIENCE_AFTER_CRASH = 30.0  # seconds that they give it to record the outcome


def run_task(sweep: Sweep, index: int, environment: Mapping[str, str], engine: Engine) -> int:
    """Try a trial and return the exit code: 0 over, 1 failed, `AGAIN` to try again.

    With several processes (`Engine.rank`), only the first one monitors the trial and writes its records.

    Raises:
        UserError: if no trial has this index.
    """
    sweep.check_index(index)
    stop = Stop()

    def asked(number: int, frame: FrameType | None) -> None:
        stop.asked = True

    for number in _SIGNALS:
        signal.signal(number, asked)
    if engine.rank(environment) > 0:
        return _share(sweep, index, environment, stop)
    sweep.check_unchanged([index])
    verdict = try_trial(sweep, index, environment, stop)
    if verdict == "over":
        return 1 if read_state(sweep.trial(index)).state == "failed" else 0
    return AGAIN


def _share(sweep: Sweep, index: int, environment: Mapping[str, str], stop: Stop) -> int:
    """Run this task's process of a trial on several devices; the first task determines the outcome."""
    deadline = time.monotonic() + _PATIENCE
    while sweep.trial(index).trial is None and time.monotonic() < deadline:
        time.sleep(0.5)
    planned = sweep.trial(index)
    if planned.trial is None or read_state(planned).state in ENDED:
        return 0
    process = start(sweep, planned, environment)
    signalled = 0.0
    while process.poll() is None:
        if stop.asked and time.monotonic() - signalled > 5:
            process.send_signal(signal.SIGTERM)
            signalled = time.monotonic()
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            continue
    by_signal = [128 + number for number in _SIGNALS] + [-number for number in _SIGNALS]
    succeeded = process.returncode in (0, *by_signal)
    deadline = time.monotonic() + (math.inf if succeeded else _PATIENCE_AFTER_CRASH)
    # the job ends soon after its first task that ends, which must be the one that records the outcome
    while read_state(planned).state == "running" and time.monotonic() < deadline:
        time.sleep(0.5)
    return 0 if succeeded else os.EX_SOFTWARE
