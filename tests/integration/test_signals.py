"""A signal at any moment leaves a checkpoint of a whole step, or nothing to regret."""

import os
import pty
import random
import select
import signal
import subprocess
import sys
import threading
import time

import pytest

from diffexp.checkpoints.paths import list_checkpoints
from diffexp.system.signals import SIGNALS, defer_exit, exit_on_signal
from tests.helpers.resumes import resume
from tests.helpers.small import SMALL, diffexp, fit, metrics, start
from tests.integration.test_training import assert_same, state

LONG = [
    *SMALL,
    "training.max_steps=40",
    "training.log_every_n_steps=3",
    "checkpoint={'every': 7, 'keep': null}",
    "sample_grid.every=10",
    "sample_grid.samplers.ddpm=null",  # of 20 steps
    "model.network.dropout=0.2",
]
STOPS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    fit(folder / "run", *LONG, "checkpoint.every=1")
    return folder / "run"


@pytest.fixture
def handlers():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    exit_on_signal()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def signalled(run, seconds, dice):
    """Start or go on with a run, and send a signal after a random time; whether it came in time."""
    sent = threading.Event()

    def send():
        if not done.wait(dice.uniform(0, seconds)):
            sent.set()
            os.kill(os.getpid(), dice.choice(STOPS))

    done = threading.Event()
    thread = threading.Thread(target=send)
    try:
        thread.start()
        try:
            resume(run) if run.exists() else fit(run, *LONG)
        finally:
            done.set()
            thread.join()
    except SystemExit as ended:
        if ended.code not in [128 + number for number in STOPS]:
            raise
    return sent.is_set()


@pytest.mark.slow
def test_signals_at_random_moments(tmp_path, undisturbed, handlers, pytestconfig):
    """While data are read, in steps, in grids, while saving: each checkpoint is that of the undisturbed run."""
    dice, received, runs, saved = random.Random(), 0, 0, 0
    whole = {file.name: state(file) for file in list_checkpoints(undisturbed / "checkpoints")}
    while received < (150 if pytestconfig.getoption("--full") else 5):
        runs += 1
        run, done = tmp_path / f"{runs}", False
        while not done:
            received += signalled(run, 1.2, dice)
            found = list_checkpoints(run / "checkpoints")
            if found:
                assert_same(state(found[-1]), whole[found[-1].name])
                saved += found[-1].name != "step-00000040.ckpt"
            done = (run / "samples" / "step-00000040.png").is_file()
        assert metrics(run) == metrics(undisturbed)
        for file in (undisturbed / "samples").iterdir():
            assert (run / "samples" / file.name).read_bytes() == file.read_bytes()
    assert saved


def test_an_ending_waits(handlers):
    """Where an exception out of nowhere would break what is done."""
    reached = []

    @defer_exit()
    def work(depth):
        if depth:
            work(depth - 1)
        else:
            signal.raise_signal(signal.SIGTERM)
        reached.append(depth)

    with pytest.raises(SystemExit) as ended:
        work(1)
    assert (reached, ended.value.code) == ([0, 1], 128 + signal.SIGTERM)
    with defer_exit():
        pass  # it ends once


@pytest.mark.slow
@pytest.mark.parametrize(("number", "ignored"), [(signal.SIGTERM, False), (signal.SIGUSR1, True)])
def test_a_signal_while_python_still_imports(tmp_path, number, ignored):
    """Also where a job script has switched signals off until somebody listens."""
    command = [sys.executable, "-m", "diffexp", "train", "digits", *LONG, "run_dir=run"]
    before = (lambda: signal.signal(number, signal.SIG_IGN)) if ignored else None
    process = subprocess.Popen(command, cwd=tmp_path, preexec_fn=before, stderr=subprocess.PIPE, text=True)
    time.sleep(random.uniform(0.2, 3.0))
    process.send_signal(number)
    err = process.communicate(timeout=120)[1]
    # a process that had not got as far as to listen either died of it, or went on because it was switched off
    assert process.returncode in (128 + number, -number, *((0,) if ignored else ()))
    assert "Traceback" not in err
    assert process.returncode == 0 or not (tmp_path / "run").exists()


WITH_WORKERS = [
    *LONG,
    "data.num_workers=2",
    "training.max_steps=100000",
    "checkpoint={'every': 100000}",
    "sample_grid=null",
]


def await_rows(run, process, meanwhile=lambda: None):
    """Wait until the run has logged something; its workers then run."""
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").is_file() or not metrics(run):
        assert process.poll() is None, "it ended"
        assert time.monotonic() < deadline
        meanwhile()
        time.sleep(0.01)


def children(pid):
    done = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in done.stdout.split()]


def assert_saved_and_resumable(run):
    (saved,) = list_checkpoints(run / "checkpoints")
    step = int(saved.stem[5:])
    assert step >= max(row["step"] for row in metrics(run))
    diffexp("train", str(run), "--resume", f"training.max_steps={step + 2}", cwd=run)


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_to_the_workers_too_saves_a_checkpoint(tmp_path, number):
    """As systemd and Slurm send it, to one process after the other."""
    process = start("train", "digits", *WITH_WORKERS, "run_dir=run", cwd=tmp_path)
    await_rows(tmp_path / "run", process)
    workers = children(process.pid)
    assert len(workers) == 2
    for pid in [*workers, process.pid]:
        os.kill(pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "Traceback" not in err
    assert err.count("stopping after this step") == 1
    assert "resume with: diffexp train run --resume" in out
    assert not any(map(exists, workers))
    assert_saved_and_resumable(tmp_path / "run")


def exists(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_workers_end_with_a_killed_training(tmp_path):
    process = start("train", "digits", *WITH_WORKERS, "run_dir=run", cwd=tmp_path)
    await_rows(tmp_path / "run", process)
    workers = children(process.pid)
    process.kill()
    process.wait(60)
    deadline = time.monotonic() + 30  # they look every 5 s
    while any(map(exists, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def drain(terminal):
    """Read what was printed, so that the training can print more."""
    while select.select([terminal], [], [], 0)[0] and os.read(terminal, 65536):
        pass


@pytest.mark.slow
@pytest.mark.parametrize(("how", "number"), [("ctrl-c", signal.SIGINT), ("closed", signal.SIGHUP)])
def test_a_terminal_saves_a_checkpoint(tmp_path, how, number):
    """Ctrl-C, and a terminal that is closed: the kernel signals all processes, and a closed one takes no output."""
    terminal, theirs = pty.openpty()
    process = start("train", "digits", *WITH_WORKERS, "run_dir=run", cwd=tmp_path, terminal=theirs)
    os.close(theirs)
    await_rows(tmp_path / "run", process, lambda: drain(terminal))
    if how == "ctrl-c":
        os.write(terminal, b"\x03")
    else:
        os.close(terminal)
    assert process.wait(60) == 128 + number
    assert_saved_and_resumable(tmp_path / "run")
