"""The course of a race: which trial is which, looks, failures, the cap, extensions, and a race that is killed."""

import json
import os
import sys

import pytest
import yaml

from diffexp.cli.main import main
from diffexp.config.schemas.engines import LocalEngineConfig, SlurmEngineConfig
from diffexp.errors import UserError
from diffexp.sweeps import runner as trying
from diffexp.sweeps.engines.local import LocalEngine
from diffexp.sweeps.engines.slurm import SlurmEngine
from diffexp.sweeps.engines.task import run_task
from diffexp.sweeps.extend import Growth, extend
from diffexp.sweeps.plan import Sweep, make_plan
from diffexp.sweeps.race import race_state, race_text, race_trial, unfinished
from diffexp.sweeps.runner import Stop, try_trial
from diffexp.sweeps.spec.file import parse_sweep, read_sweep
from diffexp.sweeps.state import read_state
from diffexp.sweeps.status import status_text

# lr=1 is the best; lr=3 is clearly worse; a seed shifts all
VALUES = """
lr, seed = (float(part.partition("=")[2]) for part in run.name.partition("-")[2].split(","))
noise = [0.01, -0.02, 0.03, -0.01, 0.02, -0.03, 0.01, 0.0][int(seed * 3 + lr * 5) % 8]
value = {1: 1.0, 2: 1.01, 3: 9.0}[int(lr)] + seed + noise
"""
BEGIN = """
import json, os, pathlib, signal, sys, time
run = pathlib.Path(sys.argv[1]); run.mkdir(parents=True, exist_ok=True)
def log(value):
    with (run / "metrics.jsonl").open("a") as file: file.write(json.dumps({"step": 1, "train/loss": value}) + "\\n")
"""


def content(**more):
    return {
        "method": "race",
        "run_cap": 12,
        "command": ["diffexp", "train", "digits", "--trial", "s", "${args_json}"],
        "metric": {"name": "train/loss"},
        "parameters": {"optim": {"parameters": {"lr": {"values": [1.0, 2.0, 3.0]}}}},
        **more,
    }


@pytest.fixture
def race(tmp_path, monkeypatch):
    """Makes a race whose trials run a Python text."""
    monkeypatch.chdir(tmp_path)

    def make(code="log(value)", **more):
        words = [sys.executable, "-c", BEGIN + VALUES + code]
        monkeypatch.setattr(trying, "command_of", lambda sweep, planned: [*words, str(planned.run.path)])
        return make_plan(parse_sweep(content(**more), "s.yaml"), 0, tmp_path / "race")

    return make


def play(sweep, workers=3):
    LocalEngine(LocalEngineConfig(workers=workers)).submit(sweep)
    return Sweep(sweep.path)


def cells(sweep):
    given = [trial.trial.parameters for trial in sweep.trials() if trial.trial is not None]
    return [(each["optim"]["lr"], each["seed"]) for each in given]


def test_a_race_trains_further_seeds_of_the_undecided_settings_only(race):
    done = play(race())
    first = [(lr, seed) for seed in (0, 1) for lr in (1.0, 2.0, 3.0)]
    assert cells(done) == first + [(lr, seed) for seed in (2, 3, 4) for lr in (1.0, 2.0)]
    state = race_state(done)
    assert (state.racing, state.seeds, state.trials, state.end) == (["lr=1", "lr=2"], 5, 12, "run_cap")
    (gone,) = state.left
    assert (gone.name, gone.seeds) == ("lr=3", 2)
    assert gone.reason.startswith("worse than lr=")
    text = race_text(done).splitlines()
    assert text[0].startswith("race: undecided between lr=1, lr=2 with 5 seeds each; best mean: lr=")
    assert text[1].startswith("  left after 2 seeds: lr=3: worse than lr=")
    assert unfinished(done) == []
    assert status_text(done).splitlines()[-2:] == text


def test_a_decided_race_ends(race):
    done = play(race("log(value + 5 * (lr == 2))"))
    assert len(cells(done)) == 6
    assert (race_state(done).racing, race_state(done).end) == (["lr=1"], "decided")
    assert race_text(done).splitlines()[0] == "race: decided: lr=1, after 6 of at most 12 trials"
    assert unfinished(done) == []
    assert try_trial(done, 7, os.environ, Stop()) == "over"
    with pytest.raises(UserError, match="expected a race that has not ended, got: race: decided: lr=1"):
        extend(done, Growth(trials=20))


def test_a_higher_score_can_be_better(race):
    done = play(race("log(-value - 5 * (lr == 2))", metric={"name": "train/loss", "goal": "maximize"}))
    assert race_state(done).racing == ["lr=1"]


def test_a_setting_that_fails_is_out_and_named(race):
    done = play(race("sys.exit(2) if (lr, seed) == (1, 1) else log(value)"))
    assert cells(done)[6:] == [(2.0, 2)] or race_state(done).racing == ["lr=2"]
    reasons = {each.name: each.reason for each in race_state(done).left}
    assert reasons["lr=1"] == "trial 0003 has failed"
    assert race_state(play(race("log(float('nan') if lr == 2 else value)"))).racing != []


def test_a_race_without_finite_values_ends(race):
    state = race_state(play(race("log(float('nan'))")))
    assert (state.racing, state.end, state.best) == ([], "failed", None)
    assert {each.reason.partition(" has ")[2] for each in state.left} == {"no finite train/loss"}


def test_trials_are_the_same_in_any_order_and_with_any_workers(race, tmp_path):
    one = cells(play(race(), workers=1))
    (tmp_path / "race").rename(tmp_path / "first")
    assert cells(play(race(), workers=5)) == one


def test_a_trial_of_a_later_round_waits_for_the_look(race):
    made = race()
    assert race_trial(made, 6) is None
    assert try_trial(made, 6, os.environ, Stop()) == "early"
    assert run_task(made, 6, os.environ, SlurmEngine(SlurmEngineConfig())) == 75  # Slurm queues it again
    assert not (made.path / "looks").exists()
    for index in range(6):
        assert try_trial(made, index, os.environ, Stop()) == "over"
    assert race_state(made).seeds == 2
    assert not (made.path / "looks").exists()  # to read a race writes nothing
    assert run_task(made, 7, os.environ, SlurmEngine(SlurmEngineConfig())) == 0
    assert (made.path / "looks" / "0001.json").exists()
    assert read_state(made.trial(7)).state == "done"


def test_a_recorded_look_counts(race):
    made = race()
    for index in range(7):
        try_trial(made, index, os.environ, Stop())
    metrics = made.trial(0).run.path / "metrics.jsonl"
    before = race_state(made)
    metrics.write_text(json.dumps({"step": 1, "train/loss": 500.0}) + "\n")
    assert race_state(made) == before
    (made.path / "looks" / "0001.json").write_text("{")
    with pytest.raises(UserError, match=r"looks/0001\.json is damaged .* Remove it"):
        race_state(made)


def test_a_race_that_is_undecided_can_be_extended(race):
    done = play(race())
    assert race_state(done).end == "run_cap"
    before = cells(done)
    done = play(extend(done, Growth(trials=14)))
    assert cells(done) == [*before, (1.0, 5), (2.0, 5)]
    assert race_state(done).seeds == 6
    with pytest.raises(UserError, match="expected --trials for a sweep with method: race"):
        extend(done, Growth(seeds=9))


def test_the_file_for_wandb_is_a_grid(race):
    made = race(run_cap=11)
    text = (made.path / "sweep.yaml").read_text()
    assert text.startswith("# The grid of a race")
    grid = read_sweep(made.path / "sweep.yaml")
    assert (grid.method, grid.run_cap) == ("grid", None)
    assert {each.key: each.values for each in grid.parameters} == {"optim.lr": (1.0, 2.0, 3.0), "seed": (0, 1, 2)}


def test_slurm_starts_a_round_after_the_one_before(race):
    made = race(run_cap=14)
    lines = [line for line in SlurmEngine(SlurmEngineConfig()).script(made).splitlines() if "# submit" in line]
    arrays = [line.partition("--array=")[2].partition(" ")[0] for line in lines]
    assert arrays == ["0-5", "6-8", "9-11", "12-13"]
    assert ["--dependency=afterany:JOB_" in line for line in lines] == [False, True, True, True]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"run_cap": 5}, "run_cap: expected at least 6, because each of the 3 settings of a race starts with 2 seeds"),
        ({"run_cap": None}, "run_cap: expected an integer >= 1, got none: a race has no end"),
        ({"seeds": 3}, "seeds: expected none, because a race chooses the seeds"),
        ({"parameters": {"seed": {"values": [0, 1]}}}, "parameters.seed: expected none, because a race"),
        ({"parameters": {"optim": {"parameters": {"lr": {"value": 1.0}}}}}, "expected at least 2 settings for a race"),
        ({"parameters": {"optim": {"parameters": {"lr": {"min": 1.0, "max": 2.0}}}}}, "expected values for a race"),
        ({"metric": None}, "metric: expected a mapping with a name, required by race"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 2}}, "early_terminate: expected none for a race"),
    ],
)
def test_what_cannot_race(more, message):
    with pytest.raises(UserError, match=message):
        parse_sweep(content(**more), "s.yaml")


def test_every_setting_is_validated_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rates = {"optim": {"parameters": {"lr": {"values": [0.1, 0.2, -1.0]}}}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content(parameters=rates)))
    monkeypatch.setattr(sys, "argv", ["diffexp", "sweep", "plan", "s.yaml"])
    with pytest.raises(SystemExit):
        main()
    assert "s.yaml: lr=-1: trial: optim.lr: expected a number > 0, got -1.0" in capsys.readouterr().err


def test_agents_of_wandb_cannot_race(race, monkeypatch, capsys):
    race()
    monkeypatch.setattr(sys, "argv", ["diffexp", "sweep", "submit", "race", "--agents", "2", "--print"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "got the planned sweep race. Register its sweep.yaml" in capsys.readouterr().err
