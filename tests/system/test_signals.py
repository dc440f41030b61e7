"""Workers survive the signals that a terminal or a launcher sends to all processes of a training."""

import multiprocessing
import os
import signal
import subprocess
import time

import pytest

from diffexp.system.signals import SIGNALS, exit_when_parent_terminates, handled_signals, signals_blocked

FORK = multiprocessing.get_context("fork")


def work():
    exit_when_parent_terminates()
    time.sleep(60)


@pytest.fixture
def worker():
    process = FORK.Process(target=work)
    with signals_blocked():
        process.start()
    yield process
    process.kill()
    process.join()


def test_a_worker_survives_signals_of_others_and_ends_on_that_of_its_parent(worker):
    for number in SIGNALS:
        subprocess.run(["kill", f"-{number}", str(worker.pid)], check=True)
    worker.join(0.2)
    assert worker.is_alive()
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0


def test_a_worker_survives_a_signal_before_it_runs_any_code():
    signalled = FORK.Event()
    process = FORK.Process(target=signalled.wait)
    with signals_blocked():
        process.start()
    os.kill(process.pid, signal.SIGTERM)
    signalled.set()
    process.join(10)
    assert process.exitcode == 0


def test_the_mask_of_this_process_is_restored():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with signals_blocked():
        assert set(SIGNALS) <= signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


@pytest.mark.parametrize("ignored", [True, False])
def test_only_a_sighup_that_nohup_ignores_is_not_handled(ignored):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        assert (signal.SIGHUP in handled_signals()) is not ignored
        assert set(SIGNALS) - {signal.SIGHUP} <= set(handled_signals())
    finally:
        signal.signal(signal.SIGHUP, before)
