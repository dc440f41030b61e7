"""Sweeps that grow: which trials an extension adds, and that nothing else changes."""

import json
import multiprocessing
import sys

import pytest
import yaml

from diffexp.cli.main import main
from diffexp.config.schemas.engines import SlurmEngineConfig
from diffexp.errors import UserError
from diffexp.sweeps.engines.slurm import SlurmEngine
from diffexp.sweeps.extend import Growth, extend, extension
from diffexp.sweeps.plan import Sweep, make_plan
from diffexp.sweeps.race import unfinished
from diffexp.sweeps.spec.file import parse_sweep, read_sweep
from diffexp.sweeps.state import TrialState, read_state, write_state

RATES = {"optim": {"parameters": {"lr": {"values": [1e-3, 2e-3]}}}}


def content(parameters=RATES, **more):
    command = ["diffexp", "train", "digits", "--trial", "s", "${args_json}"]
    return {"method": "grid", "command": command, "metric": {"name": "train/loss"}, "parameters": parameters, **more}


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda given: make_plan(parse_sweep(given, "s.yaml"), 0, tmp_path / "sweep")


def cells(sweep):
    """(lr, seed) of each trial in order; seed None where it is not swept."""
    given = [trial.trial.parameters for trial in sweep.trials()]
    return [(each["optim"]["lr"], each.get("seed")) for each in given]


def files(sweep):
    return {file: file.read_bytes() for file in sweep.path.rglob("*") if file.is_file() and file.name != "sweep.yaml"}


def test_seeds_and_values_add_the_missing_cells_only(plan):
    made = plan(content({**RATES, "seed": {"values": [3, 7]}}))
    write_state(made.trial(1), TrialState("done", tries=1))
    before, ids = files(made), [(each.run.path, each.run_id) for each in made.trials()]
    grown = extend(made, Growth(seeds=3, values={"optim.lr": [5e-3]}))
    assert cells(grown)[:4] == [(1e-3, 3), (1e-3, 7), (2e-3, 3), (2e-3, 7)]
    assert cells(grown)[4:] == [(1e-3, 8), (2e-3, 8), (5e-3, 3), (5e-3, 7), (5e-3, 8)]
    assert [(each.run.path, each.run_id) for each in grown.trials()][:4] == ids
    assert len({each.run_id for each in grown.trials()}) == 9
    after = files(grown)
    assert {file: after[file] for file in before} == before
    assert {file.name for file in after.keys() - before.keys()} == {"plan-0001.json"}
    assert read_state(grown.trial(1)).state == "done"
    assert [trial.index for trial in unfinished(grown)] == [0, 2, 3, 4, 5, 6, 7, 8]
    # as a grid, the file has the same cells
    again = read_sweep(grown.path / "sweep.yaml")
    assert {each.key: each.values for each in again.parameters} == {"optim.lr": (1e-3, 2e-3, 5e-3), "seed": (3, 7, 8)}
    assert extend(grown, Growth(seeds=3, values={"optim.lr": [5e-3]})).extensions == 1  # nothing is missing
    twice = extend(grown, Growth(seeds=4))
    assert cells(twice)[9:] == [(1e-3, 9), (2e-3, 9), (5e-3, 9)]
    assert twice.plan["work"]["training"] == 6 * made.plan["work"]["training"] / 2
    assert len(make_plan(parse_sweep(content({**RATES, "seed": {"values": [3, 7]}}), "s.yaml"), 0, made.path)) == 12


def test_the_first_seed_of_a_sweep_without_seeds_is_that_of_its_config(plan):
    given = content()
    given["command"].insert(3, "seed=4")
    grown = extend(plan(given), Growth(seeds=3))
    assert cells(grown) == [(1e-3, None), (2e-3, None), (1e-3, 5), (1e-3, 6), (2e-3, 5), (2e-3, 6)]
    assert "seed=4" not in (grown.path / "sweep.yaml").read_text()
    grown.check_unchanged(grown.indices)
    assert len(extend(grown, Growth(seeds=4))) == 8


def test_a_random_search_draws_further_trials(plan):
    given = content({"optim": {"parameters": {"lr": {"min": 1e-4, "max": 1e-2}}}}, method="random", run_cap=2)
    made = plan(given)
    grown = extend(made, Growth(trials=5))
    larger = make_plan(parse_sweep({**given, "run_cap": 5}, "s.yaml"), 0, made.path.with_name("larger"))
    assert cells(grown) == cells(larger)
    assert cells(grown)[:2] == cells(made)


def test_a_bayesian_search_gets_further_trials(plan):
    pytest.importorskip("optuna")
    given = content({"optim": {"parameters": {"lr": {"min": 1e-4, "max": 1e-2}}}}, method="bayes", run_cap=2)
    grown = extend(plan(given), Growth(trials=5))
    assert (len(grown), grown.file.run_cap, grown.trial(4).trial) == (5, 5, None)


def test_a_capped_grid_grows_in_the_order_of_the_grid(plan):
    made = plan(content({**RATES, "seed": {"values": [0, 1]}}, run_cap=3))
    with pytest.raises(UserError, match=r"expected a larger run_cap for more trials, got 3\. Give --trials"):
        extend(made, Growth(seeds=3))
    assert cells(extend(made, Growth(trials=4)))[3:] == [(2e-3, 1)]


@pytest.mark.parametrize(
    ("growth", "message"),
    [
        (Growth(seeds=1), "--seeds: expected at least the 2 seeds of"),
        (Growth(trials=9), "--trials: expected a sweep with run_cap"),
        (Growth(values={"optim.eps": [1e-7]}), r"optim.eps: expected a swept key \(optim.lr, seed\)"),
        (Growth(values={"optim.lr": [-1.0]}), "lr=-1,seed=0: trial: optim.lr: expected a number > 0"),
    ],
)
def test_what_cannot_grow_is_refused_and_nothing_is_written(plan, growth, message):
    made = plan(content({**RATES, "seed": {"values": [0, 1]}}))
    before = files(made)
    with pytest.raises(UserError, match=message):
        extend(made, growth)
    assert files(made) == before


def test_a_search_grows_by_trials_only(plan):
    made = plan(content({"optim": {"parameters": {"lr": {"min": 1e-4, "max": 1e-2}}}}, method="random", run_cap=3))
    with pytest.raises(UserError, match="expected --trials for a sweep with method: random"):
        extension(made, Growth(seeds=2))
    with pytest.raises(UserError, match="expected at least the 3 trials"):
        extension(made, Growth(trials=2))


def test_a_changed_config_is_not_mixed_with_earlier_results(plan, tmp_path):
    (tmp_path / "mine.yaml").write_text("base: [digits]\n")
    given = content()
    given["command"][2] = "mine.yaml"
    made = plan(given)
    (tmp_path / "mine.yaml").write_text("base: [digits]\ntraining: {max_steps: 7}\n")
    with pytest.raises(UserError, match="expected the planned config, got another"):
        extend(made, Growth(seeds=2))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:50],
        lambda text: "[]",
        lambda text: json.dumps({**json.loads(text), "start": 1}),
        lambda text: json.dumps({**json.loads(text), "id": "other"}),
        lambda text: json.dumps({**json.loads(text), "trials": []}),
    ],
)
def test_a_damaged_extension_is_an_error_that_names_it(plan, change):
    grown = extend(plan(content()), Growth(seeds=2))
    file = grown.path / "plan-0001.json"
    file.write_text(change(file.read_text()))
    with pytest.raises(UserError, match=r"plan-0001\.json is damaged"):
        Sweep(grown.path)


def test_a_missing_extension_is_an_error(plan):
    grown = extend(extend(plan(content()), Growth(seeds=2)), Growth(seeds=3))
    (grown.path / "plan-0001.json").unlink()
    with pytest.raises(UserError, match=r"plan-0001\.json: expected this extension of the plan, as there is plan-0002"):
        Sweep(grown.path)


def _grow(path, seeds):
    extend(Sweep(path), Growth(seeds=seeds))


def test_extensions_at_the_same_time_add_no_trial_twice(plan):
    made = plan(content())
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_grow, args=(made.path, seeds)) for seeds in (3, 3, 4, 2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    found = cells(Sweep(made.path))
    assert len(found) == len(set(found))
    assert {(lr, seed or 0) for lr, seed in found} == {(lr, seed) for lr in (1e-3, 2e-3) for seed in range(4)}
    assert read_sweep(made.path / "sweep.yaml").parameters[1].values == (0, 1, 2, 3)


def test_slurm_gets_what_is_left(plan):
    made = plan(content())
    for trial in made.trials():
        write_state(trial, TrialState("done"))
    script = SlurmEngine(SlurmEngineConfig()).script(extend(made, Growth(seeds=2)))
    assert "--array=2-3 " in script


def test_the_command_says_what_it_adds(plan, tmp_path, monkeypatch, capsys):
    made = plan(content())
    write_state(made.trial(0), TrialState("done"))
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content()))

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["diffexp", "sweep", *words])
        main()
        return capsys.readouterr().out

    words = ("extend", "sweep", "--seeds", "2", "optim.lr=5e-3,2e-3")
    assert call(*words, "--print").startswith(
        "sweep: adds 4 trials to 2: optim.lr 0.005; seed 1; 1 of the 2 have ended"
    )
    assert len(Sweep(made.path)) == 2
    assert "sweep: 6 trials; train the new ones with: diffexp sweep run sweep" in call(*words, "--yes")
    assert "adds nothing: its 6 trials include all of these (1 have ended)" in call(*words)
