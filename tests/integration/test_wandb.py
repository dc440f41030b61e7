"""The real `wandb sweep` and `wandb agent` on a sweep file of ours, against a stand-in of W&B's server."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from diffexp.checkpoints.paths import list_checkpoints, step_of
from tests.helpers.small import SMALL, diffexp, metrics
from tests.helpers.wandb_server import ENTITY, PROJECT, SWEEP, WandbServer

pytestmark = pytest.mark.slow

CELLS = [
    {"optim": {"lr": 1e-3, "betas": [0.9, 0.999]}, "ema": None},
    {"optim": {"lr": 2e-3, "betas": [0.9, 0.999]}, "ema": None},
]


def sweep_file(folder):
    fixed = [*SMALL, "training.max_steps=4", "sample_grid.weights=raw", "loggers=[csv,wandb]"]
    content = {
        "method": "grid",
        "name": "rates",
        "program": "diffexp",
        "command": ["${env}", "diffexp", "train", "digits", *fixed, "--trial", "rates", "${args_json}"],
        "metric": {"name": "train/loss", "goal": "minimize"},
        "parameters": {
            "optim": {"parameters": {"lr": {"values": [1e-3, 2e-3]}, "betas": {"value": [0.9, 0.999]}}},
            "ema": {"value": None},
        },
    }
    (folder / "rates.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return "rates.yaml"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The server after a sweep was made and its agent has run, and the folder that the agent ran in."""
    folder = tmp_path_factory.mktemp("wandb")
    server = WandbServer().start()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("WANDB_")},
        **server.environment,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    try:
        for command in (["sweep", sweep_file(folder)], ["agent", f"{ENTITY}/{PROJECT}/{SWEEP}"]):
            done = subprocess.run(
                [sys.executable, "-m", "wandb", *command],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert done.returncode == 0, done.stderr
            assert "Ignoring" not in done.stderr
    finally:
        server.stop()
    return server, folder


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The same sweep, run here."""
    folder = tmp_path_factory.mktemp("local")
    diffexp("sweep", "run", sweep_file(folder), "--workers", "2", cwd=folder, OMP_NUM_THREADS="1")
    return folder / "runs" / "rates"


def test_the_server_gets_the_file_as_it_is(served):
    server, folder = served
    assert yaml.safe_load(server.sweeps[0]) == yaml.safe_load((folder / "rates.yaml").read_text())


def test_every_cell_runs_once_with_nested_and_typed_parameters(served):
    server, folder = served
    assert len(server.runs) == 2
    assert list(server.handed_out.values()) == CELLS
    runs = [yaml.safe_load(file.read_text()) for file in sorted((folder / "runs" / "rates").glob("*/config.yaml"))]
    assert [(run["optim"]["lr"], run["optim"]["betas"], run["ema"]) for run in runs] == [
        (1e-3, [0.9, 0.999], None),
        (2e-3, [0.9, 0.999], None),
    ]
    assert all(run["optim"]["warmup_steps"] == 2 for run in runs)  # what the sweep leaves alone stays


def test_runs_carry_config_history_and_summary(served):
    server, folder = served
    for run_id, cell in server.handed_out.items():
        run, config = server.runs[run_id], server.config(run_id)
        assert run["exit"] == 0
        assert config["optim"] == {
            **cell["optim"],
            "eps": 1e-8,
            "weight_decay": 0.01,
            "warmup_steps": 2,
            "decay": "cosine",
            "skip_nonfinite": 0,
        }
        assert config["model"]["timesteps"] == 20
        (directory,) = (folder / "runs" / "rates").glob(f"*lr={cell['optim']['lr']}*")
        logged = {row["step"]: row["train/loss"] for row in metrics(directory)}
        sent = {row["trainer/global_step"]: row["train/loss"] for row in run["history"] if "train/loss" in row}
        assert sent == logged
        assert run["summary"]["train/loss"] == logged[4]
        assert json.loads((directory / "environment.json").read_text())["run_id"] == run_id


def test_names_groups_and_config_columns_are_those_of_a_run_here(served, local):
    server, _ = served
    trials = json.loads((local / "plan.json").read_text())["trials"]
    names = [server.latest(run_id, "displayName") for run_id in server.handed_out]
    assert names == [trial["name"] for trial in trials]
    for run_id in server.handed_out:
        about = [server.latest(run_id, key) for key in ("groupName", "jobType", "tags")]
        assert about == ["rates", "trial", ["rates"]]
    for run_id, directory in zip(server.handed_out, sorted((local / "trials").iterdir()), strict=True):
        here = yaml.safe_load((directory / "config.yaml").read_text())
        there = server.config(run_id)
        assert columns(here) == columns({key: value for key, value in there.items() if key != "_wandb"})
        assert here["wandb"] == there["wandb"]


def test_a_stopped_agent_lets_its_run_save_and_gives_it_back(tmp_path):
    (tmp_path / "s.yaml").write_text(
        yaml.safe_dump(
            {
                "method": "grid",
                "command": [
                    *("diffexp", "train", "digits", *SMALL, "training.max_steps=100000", "sample_grid=null"),
                    *("loggers=[csv,wandb]", "--trial", "s", "${args_json}"),
                ],
                "metric": {"name": "train/loss"},
                "parameters": {"seed": {"values": [0]}},
            }
        )
    )
    server = WandbServer().start()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("WANDB_")},
        **server.environment,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    wandb = [sys.executable, "-m", "wandb"]
    try:
        subprocess.run([*wandb, "sweep", "s.yaml"], cwd=tmp_path, env=environment, check=True, capture_output=True)
        agent = subprocess.Popen(
            [*wandb, "agent", "--forward-signals", f"{ENTITY}/{PROJECT}/{SWEEP}"], cwd=tmp_path, env=environment
        )
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("runs/s/*/checkpoints/*.ckpt")):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        agent.send_signal(signal.SIGTERM)
        agent.wait(timeout=120)
        (run,) = server.runs.values()
        while run["exit"] is None:
            assert time.monotonic() < deadline + 60
            time.sleep(0.2)
    finally:
        agent.kill()
        server.stop()
    assert run["exit"] == 128 + signal.SIGTERM
    assert run["flags"] == ["preempting"]
    (status,) = (json.loads(file.read_text()) for file in tmp_path.glob("runs/s/*/status.json"))
    assert status["state"] == "interrupted"
    (directory,) = (tmp_path / "runs" / "s").iterdir()
    assert step_of(list_checkpoints(directory / "checkpoints")[-1]) == status["step"]


def columns(config, prefix=""):
    found = set()
    for key, value in config.items():
        found |= columns(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}"}
    return found
