"""What `diffexp sweep status` tells of running trials, and how commands find a planned sweep by its name."""

import json
import os
import sys
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from diffexp.cli.main import main
from diffexp.sweeps.plan import make_plan
from diffexp.sweeps.spec.file import parse_sweep
from diffexp.sweeps.state import TrialState, locked, write_state
from diffexp.sweeps.status import status_text

CONTENT = {
    "method": "grid",
    "command": ["diffexp", "train", "digits", "training.max_steps=1000", "--trial", "mine", "${args_json}"],
    "metric": {"name": "train/loss"},
    "parameters": {"seed": {"values": [0, 1]}},
}


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A planned sweep in runs/mine of the current folder."""
    monkeypatch.chdir(tmp_path)
    return make_plan(parse_sweep(CONTENT, "s.yaml"), 0, tmp_path / "runs" / "mine")


def running(made, ago=0.0, **status):
    """Return the line of trial 0, which runs here and reported this status some seconds ago."""
    trial = made.trial(0)
    trial.run.path.mkdir(parents=True, exist_ok=True)
    if status:
        updated = (datetime.now(UTC) - timedelta(seconds=ago)).isoformat(timespec="seconds")
        trial.run.status.write_text(json.dumps({"state": "running", "updated": updated, **status}))
    write_state(trial, TrialState("running", tries=1, host=os.uname().nodename))
    with locked(trial):
        head, line = status_text(made).splitlines()
    assert head == "mine: 2 trials: 1 running, 1 pending"
    return line.partition(": ")[2]


def test_a_running_trial_shows_its_step_and_the_time_left(made):
    here = f"running on {os.uname().nodename}"
    assert running(made) == f"{here}, before the first step"
    assert running(made, step=120, steps=1000, seconds=60.0) == f"{here}, step 120 of 1000, about 7 min left"
    line = running(made, ago=300, step=900, steps=1000, seconds=900.0)
    assert line == f"{here}, step 900 of 1000, about 0 s left, last report 5 min ago"
    assert running(made, step=0, steps=1000, seconds=3.0) == f"{here}, step 0 of 1000"
    assert running(made, step=1, steps=5) == f"{here}, step 1 of 5"  # an evaluation


def call(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["diffexp", "sweep", *words])
    try:
        main()
    except SystemExit as ended:
        return ended.code, capsys.readouterr()
    return 0, capsys.readouterr()


@pytest.mark.parametrize(
    "words",
    ["plan mine", "submit mine --print", "status mine", "results mine", "cancel mine"],
)
def test_the_name_of_a_planned_sweep_is_enough(made, monkeypatch, capsys, words):
    code, printed = call(monkeypatch, capsys, *words.split())
    assert code == 0, printed.err
    assert ("mine: found the planned sweep runs/mine" in printed.err) == words.startswith(("plan", "submit"))


def test_a_file_comes_before_a_planned_sweep_of_its_name(made, tmp_path, monkeypatch, capsys):
    other = {**CONTENT, "parameters": {"seed": {"values": [5]}}}
    (tmp_path / "mine").write_text(yaml.safe_dump(other))
    code, printed = call(monkeypatch, capsys, "plan", "mine")
    assert code == 2
    assert "expected the plan of this sweep, got that of another file" in printed.err
    code, printed = call(monkeypatch, capsys, "plan", "timesteps", "--out", "runs/timesteps", "score.count=600")
    assert code == 0
    code, printed = call(monkeypatch, capsys, "plan", "timesteps")
    assert "got that of another file or of other overrides" in printed.err


@pytest.mark.parametrize("content", ["[]", "null", '"a"', '{"step": null, "steps": 3}', '{"step": "1"}', "garbage"])
def test_a_damaged_status_hides_only_the_progress(made, content):
    trial = made.trial(0)
    trial.run.path.mkdir(parents=True)
    trial.run.status.write_text(content)
    write_state(trial, TrialState("running", host="elsewhere"))
    assert status_text(made).splitlines()[0] == "mine: 2 trials: 1 running, 1 pending"


@pytest.mark.parametrize("record", [{"state": "zzz"}, {"step": None}, {"state": "done", "seconds": "1"}, {"host": 1}])
def test_a_damaged_record_is_a_lost_trial(made, record):
    trial = made.trial(0)
    trial.state_file.parent.mkdir(exist_ok=True)
    trial.state_file.write_text(json.dumps(record))
    assert status_text(made).splitlines()[0] == "mine: 2 trials: 1 lost, 1 pending"
