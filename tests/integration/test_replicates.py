"""`diffexp train --seeds N`: real trainings."""

import math
import re
import signal
import time

import pytest

from diffexp.sweeps.plan import Sweep
from diffexp.sweeps.state import read_state
from tests.helpers.small import SMALL, diffexp, finished, metrics, start
from tests.integration.test_training import assert_same, state

pytestmark = pytest.mark.slow

WORDS = ["train", "digits", *SMALL, "sample_grid=null", "training.max_steps=6", "checkpoint.every=2", "--seeds", "2"]


def test_replicates_are_interrupted_and_resumed_and_end_with_their_mean(tmp_path):
    process = start(*WORDS, cwd=tmp_path)
    folder = tmp_path / "runs" / "digits-seeds"
    deadline = time.monotonic() + 120
    while not list(folder.glob("trials/*/checkpoints/*.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    interrupted = finished(process, WORDS, 130)
    assert "resume with: diffexp sweep run runs/digits-seeds" in interrupted.stdout
    assert "expected no runs/digits-seeds, which exists" in diffexp(*WORDS, cwd=tmp_path, expect=2).stderr
    done = diffexp(*WORDS, "--resume", cwd=tmp_path)
    runs = sorted((folder / "trials").iterdir())
    assert [run.name for run in runs] == ["0000-seed=0", "0001-seed=1"]
    one, two = (metrics(run)[-1]["train/loss"] for run in runs)
    mean, half, seeds = re.search(r"train/loss: (\S+) ± (\S+), (\d) seeds", done.stdout).groups()
    assert float(mean) == pytest.approx((one + two) / 2, rel=1e-3)
    # t(.975, 1) = 12.706; the standard error of the mean of two is half their difference
    assert float(half) == pytest.approx(12.706 * abs(one - two) / 2, rel=0.05)
    assert math.isfinite(float(half))
    assert seeds == "2"
    alone = [word for word in WORDS if word not in ("--seeds", "2")]
    diffexp(*alone, "seed=1", "run_dir=alone", cwd=tmp_path)
    assert_same(state(tmp_path / "alone"), state(runs[1]))
    tries = [read_state(trial).tries for trial in Sweep(folder).trials()]
    diffexp(*WORDS, "--resume", cwd=tmp_path)
    assert [read_state(trial).tries for trial in Sweep(folder).trials()] == tries
