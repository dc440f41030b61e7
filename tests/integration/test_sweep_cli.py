"""Mistakes in sweep files and commands: one message, exit code 2, nothing written."""

import sys
import time

import pytest
import yaml

from diffexp.cli.main import cli, main
from diffexp.sweeps.plan import make_plan
from diffexp.sweeps.spec.file import parse_sweep
from tests.helpers.small import SMALL

SCORED = "score={'samplers': {'ddim-50': None, 'ddpm': {'name': 'ddpm'}}}"
RATES = {"optim": {"parameters": {"lr": {"values": [1e-3]}}}}


def content(parameters=RATES, *fixed, metric="train/loss", **more):
    small = [word for word in SMALL if not ("timesteps" in str(parameters) and word.startswith("model.timesteps"))]
    words = ["diffexp", "train", "digits", *small, *fixed, "--trial", "s", "${args_json}"]
    return {"method": "grid", "command": words, "metric": {"name": metric}, "parameters": parameters, **more}


def one(path, values):
    node = {"values": values}
    for part in reversed(path.split(".")):
        node = {part: node} if node == {"values": values} else {part: {"parameters": node}}
    return node


WRONG = [
    (content(one("optim.lrr", [1.0])), "s.yaml: lrr=1: trial: optim.lrr: unknown key. Did you mean optim.lr?"),
    (content(one("optim.lr", ["fast"])), "optim.lr: expected a number, got 'fast'"),
    (content(one("optim.lr", [0.1, -1.0])), "s.yaml: lr=-1: trial: optim.lr: expected a number > 0, got -1.0"),
    (content(one("model.schedule.name", ["linear", "cosin"])), "sigmoid), got 'cosin'"),
    (content(one("model.timesteps", [20, 4])), "expected an integer <= model.timesteps = 4, got 5"),
    (content(one("run_dir", ["a"])), "parameters.run_dir: the sweep sets this key itself"),
    (content(one("wandb.group", ["a"])), "parameters.wandb.group: the sweep sets this key itself"),
    (content(RATES, "optim.lr=0.5"), "optim.lr=0.5: has no effect, because optim.lr is swept"),
    (content(RATES, "run_dir=a"), "command: run_dir=a: the sweep sets this key itself"),
    (content(RATES, "optim.epsilon=1"), "optim.epsilon: unknown key"),
    (content(metric="loss"), "metric.name: "),
    (content(metric="train/los"), "expected a logged metric such as train/loss, got 'train/los' with score: null"),
    (content(RATES, SCORED, metric="score/ddpm-7-fixed_large-ema/fd_digits_v1_5k"), "expected a logged metric"),
    (content(RATES, SCORED, metric="score/precision_digits_v1_5k_best"), "expected a logged metric"),
    (content(one("score.count", [5000, 600]), SCORED, metric="score/fd_digits_v1_5k_best"), "(in count=600)"),
    (content(metric="score/fd_digits_v1_500_best"), "got 'score/fd_digits_v1_500_best' with score: null"),
    (content(RATES, SCORED, metric="score/fd_digits_v1_50_best"),
     "such as score/fd_digits_v1_5k_best, got 'score/fd_digits_v1_50_best' (in "),
    (content(RATES, SCORED, metric="score/fd_digits_v1_500"), "such as score/fd_digits_v1_5k_best"),
    (content(one("optim.lr", [1.0]), method="bayes", run_cap=2) | {"parameters": {"optim": {"parameters": {"lr": {
        "distribution": "normal"}}}}}, "optim.lr: expected a number > 0"),
    (content({"optim": {"parameters": {"lr": {"min": 0.0, "max": 1.0}}}}, method="random", run_cap=2),
     "optim.lr: expected a number > 0, got 0.0"),
    (content({"seed": {"min": 0.5, "max": 1.5}}, method="random", run_cap=2), "seed: expected an integer"),
    (content(one("score.count", [5000, 8]), SCORED), "s.yaml: count=8: "),
    (content(one("data.path", ["nowhere"]), "data={name: image_folder, image_size: 8}"), "s.yaml: path=nowhere: "),
    ({"method": "grid", "command": ["diffexp", "evaluate", "nowhere", "--trial", "s", "${args_json}"],
      "parameters": RATES}, "expected a run or a checkpoint in one, got nowhere"),
]  # fmt: skip


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["diffexp", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr()


@pytest.mark.parametrize("command", ["check", "plan", "run"])
@pytest.mark.parametrize(("file", "message"), WRONG, ids=[message[-50:] for _, message in WRONG])
def test_a_wrong_sweep_costs_no_job(tmp_path, monkeypatch, capsys, command, file, message):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(file))
    monkeypatch.chdir(tmp_path)
    code, printed = run(monkeypatch, capsys, "sweep", command, "s.yaml")
    assert code == 2
    assert message in printed.err
    assert printed.out == ""
    assert [each.name for each in tmp_path.iterdir()] == ["s.yaml"]


MISTAKES = [
    (
        ["check", "nowhere"],
        "nowhere: no such sweep file or ready sweep (ready: families, families_fashion_mnist, learning_rate",
    ),
    (["check", "timestep"], "Did you mean 'timesteps'?"),
    (["check", "broken.yaml"], "broken.yaml: cannot be read as YAML"),
    (["status", "empty"], "empty: expected a sweep directory with plan.json"),
    (["results", "damaged"], "damaged/plan.json is damaged"),
    (["best", "right.yaml"], "right.yaml: expected a planned sweep, got no runs/s. Run diffexp sweep plan right.yaml."),
    (["run", "right.yaml", "--devices", "0", "training.devices=2"], "at least 2 for a trial (training.devices), got 1"),
    (["run", "right.yaml", "--devices", "0,1", "--workers", "3"], "at most 2 with 2 devices and 1 per trial, got 3"),
    (["run", "right.yaml", "--config", "digitz"], "digitz: no such config file"),
    (["run", "empty", "optim.lr=1"], "empty: expected no further options, as a plan is immutable"),
    (
        ["submit", "right.yaml", "--engine", "slrm"],
        "expected a known engine (local, slurm), got 'slrm'",
    ),
    (
        ["submit", "a/b/c", "--slurm", "--agents", "2", "gpu=1"],
        "--agents: expected only keys of slurm, --out and --print",
    ),
    (["submit", "right.yaml", "--slurm", "--agents", "2"], "--agents: expected ENTITY/PROJECT/ID, got 'right.yaml'"),
    (["run", "empty", "--seed", "3"], "as a plan is immutable"),
    (["submit", "right.yaml", "--slurm", "gpus=2"], "gpus: expected 1, the training.devices of a trial, got 2"),
    (["submit", "right.yaml", "--slurm", "gpus=many"], "gpus: expected an integer or null, got 'many'"),
    (["submit", "right.yaml", "--slurm", "max_parallel=0"], "max_parallel: expected an integer >= 1"),
    (
        ["submit", "right.yaml", "--slurm", "partion=a"],
        "partion: expected a key of the engine slurm or of the config, got partion. Did you mean 'partition'?",
    ),
    (["submit", "right.yaml", "--slurm", "gpu=1"], "Did you mean 'gpus'?"),
    (["submit", "right.yaml", "--slurm", "time=1 day"], "expected an sbatch option without spaces, got '1 day'"),
]


@pytest.mark.parametrize(("command", "message"), MISTAKES, ids=[" ".join(command)[-50:] for command, _ in MISTAKES])
def test_a_mistake_is_one_message(tmp_path, monkeypatch, capsys, command, message):
    (tmp_path / "right.yaml").write_text(yaml.safe_dump(content()))
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "plan.json").write_text('{"sweep": 3')
    monkeypatch.chdir(tmp_path)
    code, printed = run(monkeypatch, capsys, "sweep", *command)
    assert code == 2
    assert message in printed.err


@pytest.mark.parametrize("kind", ["grid", "random"])
def test_a_plan_needs_no_torch(tmp_path, monkeypatch, kind):
    import subprocess

    parameters = RATES if kind == "grid" else {"seed": {"min": 0, "max": 99}}
    more = {} if kind == "grid" else {"method": "random", "run_cap": 3}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content(parameters, **more)))
    code = (
        "import sys; from diffexp.cli.main import cli; cli(['sweep', 'plan', 's.yaml'], standalone_mode=False);"
        "print([name for name in ('torch', 'lightning', 'wandb', 'optuna') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "work: " in done.stdout


@pytest.mark.slow
def test_another_config_is_one_override(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("timesteps", "schedules", "objectives", "learning_rate", "seeds"):
        for config, metric in (("fashion_mnist", "fd_fashion_mnist_v1"), ("cifar10_ddpm", "fid")):
            more = ["score.count=5000"] if config == "cifar10_ddpm" else []  # Inception needs 2048 images
            cli(["sweep", "check", name, "--config", config, *more], standalone_mode=False)
            assert f"→ score/{metric}" in capsys.readouterr().out


def test_a_shortened_tag_is_told(tmp_path, monkeypatch, capsys):
    name = "ddpm_vs_ddim_fashion_mnist_learning_rate_and_weight_decay_ablation_2026"
    file = content()
    file["command"][-2] = name
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(file))
    monkeypatch.chdir(tmp_path)
    cli(["sweep", "check", "s.yaml"], standalone_mode=False)
    (line, _) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"W&B tag: {name[:55]}-")
    assert line.endswith("because a tag has at most 64 characters")


def test_a_trial_is_checked_and_planned_in_milliseconds(tmp_path, monkeypatch):
    """benchmarks/sweep_check.py measures 5; other work on the machine may double that."""
    monkeypatch.chdir(tmp_path)
    sweep = parse_sweep(content({"seed": {"values": list(range(200))}}), "s.yaml")
    make_plan(parse_sweep(content({"seed": {"values": [0]}}), "s.yaml"), 0, tmp_path / "warm")
    before = time.process_time()
    make_plan(sweep, 0, tmp_path / "s")
    assert (time.process_time() - before) / 200 < 0.015
