"""`seeds: N` in a sweep file, and `diffexp train --seeds N`."""

import sys

import pytest
import yaml

from diffexp.cli.main import main
from diffexp.errors import UserError
from diffexp.sweeps.plan import make_plan
from diffexp.sweeps.replicates import mean_text, replicates_of, with_seeds
from diffexp.sweeps.spec.file import parse_sweep, read_sweep

RATES = {"optim": {"parameters": {"lr": {"values": [1e-3, 2e-3]}}}}


def content(*overrides, **more):
    command = ["diffexp", "train", "digits", *overrides, "--trial", "s", "${args_json}"]
    return {"method": "grid", "command": command, "metric": {"name": "train/loss"}, "parameters": RATES, **more}


def cells(sweep):
    return [(each.trial.parameters["optim"]["lr"], each.trial.parameters["seed"]) for each in sweep.trials()]


def test_seeds_start_at_that_of_the_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = make_plan(parse_sweep(content("seed=5", seeds=3), "s.yaml"), 0, tmp_path / "sweep")
    assert cells(made) == [(lr, seed) for lr in (1e-3, 2e-3) for seed in (5, 6, 7)]
    written = yaml.safe_load((tmp_path / "sweep" / "sweep.yaml").read_text())
    assert "seeds" not in written  # which W&B does not have
    assert "seed=5" not in written["command"]
    assert read_sweep(tmp_path / "sweep" / "sweep.yaml").parameters[1].values == (5, 6, 7)
    assert make_plan(parse_sweep(content("seed=5", seeds=3), "s.yaml"), 0, tmp_path / "sweep").id == made.id


def test_seeds_alone_are_a_sweep():
    alone = content(seeds=2)
    del alone["parameters"]
    (seed,) = with_seeds(parse_sweep(alone, "s.yaml")).parameters
    assert (seed.key, seed.values) == ("seed", (0, 1))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"seeds": 1}, "seeds: expected an integer >= 2, got 1"),
        ({"seeds": True}, "seeds: expected an integer >= 2, got True"),
        (
            {"seeds": 2, "parameters": {"seed": {"values": [0, 1]}}},
            "expected either seeds or parameters.seed, got both",
        ),
        ({"seeds": 2, "method": "random", "run_cap": 3}, "seeds: expected method: grid"),
        ({"seeds": 6000}, "expected at most 10,000 trials, got 12,000"),
    ],
)
def test_seeds_that_cannot_be(more, message):
    with pytest.raises(UserError, match=message):
        parse_sweep({**content(), **more}, "s.yaml")


def call(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["diffexp", *words])
    try:
        main()
    except SystemExit as ended:
        return ended.code, capsys.readouterr()
    return 0, capsys.readouterr()


def test_the_command_line_sets_seeds(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content()))
    code, printed = call(monkeypatch, capsys, "sweep", "plan", "s.yaml", "--seeds", "4")
    assert (code, printed.out.splitlines()[0]) == (0, "runs/s: 8 trials of grid over optim.lr (2), seed (4)")
    code, printed = call(monkeypatch, capsys, "sweep", "plan", "runs/s", "--seeds", "5")
    assert code == 2
    assert "Add trials with diffexp sweep extend" in printed.err


def test_replicates_of_a_config_are_a_sweep_in_its_directory():
    words = ["name=my run", "runs_dir=here", "optim.lr=0.1", "seed=3"]
    sweep, folder = replicates_of("digits", words, ["tests"], 2)
    assert str(folder) == "here/my-run-seeds"
    assert sweep.command.overrides == ("optim.lr=0.1", "seed=3")
    assert sweep.command.plugins == ("tests",)


@pytest.mark.parametrize(
    ("overrides", "metric"),
    [
        ([], "val/bits_per_dim"),
        (["validation=null"], "score/fd_digits_v1_500_best"),
        (["validation=null", "score=null"], "train/loss"),
    ],
)
def test_the_metric_of_replicates(overrides, metric):
    assert replicates_of("digits", overrides, [], 2)[0].metric.name == metric


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run_dir=a",), "run_dir: expected none with --seeds, got a"),
        (("--resume",), "--resume: expected replicates in runs/digits-seeds, got none"),
        (("--trial", "s", "{}"), "expected neither --trial nor --allow-change with it, got --trial"),
        (("--resume", "--allow-change", "optim.lr"), "got --allow-change"),
        (("name=taken",), "expected no runs/taken-seeds, which exists. Give --resume"),
        (("optim.lrr=1",), "optim.lrr: unknown key"),
    ],
)
def test_what_replicates_refuse(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "taken-seeds").mkdir(parents=True)
    code, printed = call(monkeypatch, capsys, "train", "digits", "--seeds", "2", *words)
    assert code == 2
    assert message in printed.err


def test_the_mean_has_the_interval_of_student():
    # t(.975, 2) = 4.3027, standard deviation 1
    assert mean_text("loss", [1.0, 2.0, 3.0], 3) == "loss: 2 ± 2.5, 3 seeds (mean and its 95 % t-interval)"
    assert mean_text("loss", [1.0, 3.0], 3).startswith("loss: 2 ± 13, 2 of 3 seeds")  # 12.706 · 1.414 / 1.414
    assert mean_text("loss", [1.0], 2) == "loss: 1, 1 of 2 seeds"
    assert mean_text("loss", [], 2) == "loss: no value, 0 of 2 seeds"
