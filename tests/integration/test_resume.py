"""A run that is stopped and resumed is the run that was not."""

import os
import signal
import subprocess
import sys
import time

import pytest

from diffexp.callbacks.checkpoints import checkpoints, step_of
from tests.integration.test_training import assert_same, state
from tests.small import SMALL, diffexp, metrics

LONG = [
    *SMALL,
    "training.steps=40",
    "training.log_every=3",
    "checkpoint={'every': 5, 'keep': None}",
    "sample_grid=null",
    "data.flip=true",
    "model.network.dropout=0.2",
    "optim.decay=cosine",
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("undisturbed")
    diffexp("train", "digits", *LONG, "run_dir=run", cwd=cwd)
    return cwd / "run"


def stop_after(cwd, steps):
    """Leave a run as a crash right after a checkpoint would: later checkpoints are gone, later metrics are not."""
    diffexp("train", "digits", *LONG, "run_dir=run", cwd=cwd)
    for file in checkpoints(cwd / "run" / "checkpoints"):
        if step_of(file) > steps:
            file.unlink()


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("step", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_resumed_run_equals_undisturbed_one(tmp_path, undisturbed, step, workers):
    overrides = [f"data.workers={workers}"]
    diffexp("train", "digits", *LONG, *overrides, "run_dir=run", cwd=tmp_path)
    for file in checkpoints(tmp_path / "run" / "checkpoints"):
        if step_of(file) > step:
            file.unlink()
    done = diffexp("train", "run", "--resume", cwd=tmp_path)
    assert "40 of 40 steps done" in done.stdout
    assert_same(state(tmp_path / "run"), state(undisturbed))
    assert metrics(tmp_path / "run") == metrics(undisturbed)
    assert (tmp_path / "run" / "metrics.csv").read_text() == (undisturbed / "metrics.csv").read_text()


def test_ctrl_c_leaves_a_resumable_run(tmp_path, undisturbed):
    process = subprocess.Popen(
        [sys.executable, "-m", "diffexp", "train", "digits", *LONG, "run_dir=run"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not checkpoints(tmp_path / "run" / "checkpoints") and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, err
    assert "go on with: diffexp train run --resume" in out
    assert "Traceback" not in err
    stopped = step_of(checkpoints(tmp_path / "run" / "checkpoints")[-1])
    assert 5 <= stopped < 40
    assert f'"state": "interrupted",\n  "step": {stopped}' in (tmp_path / "run" / "status.json").read_text()
    diffexp("train", "run", "--resume", cwd=tmp_path)
    assert_same(state(tmp_path / "run"), state(undisturbed))
    assert metrics(tmp_path / "run") == metrics(undisturbed)


def test_what_may_and_what_may_not_change_on_resume(tmp_path, undisturbed):
    def resume(*overrides, expect=0):
        return diffexp("train", str(undisturbed), "--resume", *overrides, cwd=tmp_path, expect=expect)

    refused = resume("optim.lr=1", "data.flip=false", expect=2).stderr
    assert (
        "computes something else:\n  data.flip: True in the run, False now\n  optim.lr: 0.001 in the run, 1.0 now"
        in refused
    )
    assert "40 of 40 steps done" in resume("checkpoint.every=7", "loggers=[]").stdout


def test_resume_with_a_run_dir_that_is_not_there_yet_starts(tmp_path):
    command = ["train", "digits", *SMALL, "training.steps=2", "sample_grid=null", "run_dir=run", "--resume"]
    assert "2 of 2 steps done" in diffexp(*command, cwd=tmp_path).stdout
    assert "2 of 2 steps done" in diffexp(*command, cwd=tmp_path).stdout
    assert "no such" not in os.listdir(tmp_path)
