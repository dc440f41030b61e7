"""A config so small that training takes seconds, and the ways tests start it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from diffexp.commands.locate import start_run
from diffexp.commands.train import train_run
from diffexp.config.load import load_experiment
from tests.helpers.warm import Warm

SMALL = [
    "model.timesteps=20",
    "model.schedule={'name': 'linear', 'beta_start': 0.001, 'beta_end': 0.5}",
    "model.network={'base_channels': 8, 'channel_multipliers': [1, 2], 'norm_num_groups': 4}",
    "training={'max_steps': 8, 'batch_size': 16, 'log_every_n_steps': 2, 'precision': '32-true'}",
    "optim={'warmup_steps': 2, 'lr': 1e-3}",
    "sample_grid={'every': 4, 'count': 6, 'samplers': {'ddim-50': None, 'ddim-5': {'name': 'ddim', 'steps': 5}}}",
    "checkpoint={'every': 4}",
    "score=null",
    "loggers=[csv]",
]


def experiment(*overrides: str):
    return load_experiment("digits", [*SMALL, *overrides])


def fit(run_dir: Path, *overrides: str):
    """Train here, in this process."""
    wanted = experiment(f"run_dir={run_dir}", *overrides)
    return train_run(wanted, start_run(wanted), [])


_warm = Warm()


def diffexp(*arguments: str, cwd: Path, expect: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, which has imported everything already where that makes no odds."""
    whole = {**os.environ, **environment}
    # a training on several devices starts itself again, sweeps start others, and W&B keeps things of its import
    starts_others = arguments[0] == "sweep" or any("devices=" in each for each in arguments)
    if starts_others or {"PATH", "WANDB_MODE", "WANDB_BASE_URL"} & set(environment):
        command = [sys.executable, "-m", "diffexp", *arguments]
        done = subprocess.run(command, cwd=cwd, env=whole, capture_output=True, text=True, timeout=300)
    else:
        done = subprocess.CompletedProcess(["diffexp", *arguments], *_warm.run(arguments, cwd, whole, timeout=300))
    assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    if expect:
        assert "Traceback" not in done.stderr
    return done


def metrics(run_dir: Path):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
