"""What can be said of job scripts and arrays without a Slurm."""

import os

import pytest

from diffexp.errors import EnvironmentFailure, UserError
from diffexp.sweeps.engines.base import build_engine
from diffexp.sweeps.engines.slurm import arrays, slurm
from diffexp.sweeps.plan import make_plan
from diffexp.sweeps.spec.file import parse_sweep
from diffexp.sweeps.state import TrialState, write_state


def test_arrays_are_split_where_slurm_ends_them():
    (only,) = arrays([0, 1, 2, 3, 7, 9, 10], max_parallel=2)
    assert (only.tasks, only.offset) == ("0-3,7,9-10%2", 0)
    first, second = arrays([*range(5), 8, 9], None, largest=5)
    assert [(first.tasks, first.offset), (second.tasks, second.offset)] == [("0-4", 0), ("3-4", 5)]
    assert arrays([], None) == []


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("5", 300), ("5:30", 330), ("1:00:00", 3600), ("1-0", 86_400), ("1-1:30", 91_800), ("2-00:00:10", 172_810)],
)
def test_time_limits_as_slurm_writes_them(time, seconds):
    build_engine("slurm", [f"time={time}", f"grace={(seconds - 1) // 2}"])
    with pytest.raises(UserError, match=f"less than half of the time limit of {seconds} s"):
        build_engine("slurm", [f"time={time}", f"grace={(seconds + 1) // 2}"])


def test_other_limits_are_slurms_to_refuse():
    assert build_engine("slurm", ["time=UNLIMITED"])[0].config.time == "UNLIMITED"


TASK_7 = 'case "$*" in *--format=%A*) echo 7 ;; *) echo 8 ;; esac'  # %F would be that of the whole array
UNREACHABLE = "echo 'error: Unable to contact slurm controller (connect failure)' >&2\nexit 1"


def write_command(path, script):
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_cluster_that_cannot_be_reached_is_a_failure_of_the_machine(tmp_path):
    write_command(tmp_path / "sbatch", UNREACHABLE)
    with pytest.raises(EnvironmentFailure, match=r"connect failure\)\. Run the command on a login node"):
        slurm([str(tmp_path / "sbatch")])
    write_command(tmp_path / "sbatch", "echo 'sbatch: error: invalid partition specified: gpus' >&2\nexit 1")
    with pytest.raises(UserError, match="invalid partition specified: gpus"):
        slurm([str(tmp_path / "sbatch")])


@pytest.mark.parametrize(("squeue", "gone"), [(TASK_7, {1}), ("true", {0, 1}), (UNREACHABLE, set()), ("exit 1", set())])
def test_a_trial_is_lost_only_if_slurm_says_that_its_job_has_ended(squeue, gone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {
        "method": "grid",
        "command": ["diffexp", "train", "digits", "--trial", "s", "${args_json}"],
        "parameters": {"seed": {"values": [0, 1, 2]}},
    }
    made = make_plan(parse_sweep(content, "s.yaml"), 0, tmp_path / "sweep")
    for index, job in ((0, "7"), (1, "8")):
        write_state(made.trial(index), TrialState("running", job=job, host="another"))
    write_command(tmp_path / "squeue", squeue)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert build_engine("slurm", [])[0].gone(made) == gone
