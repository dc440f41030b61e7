"""A config so small that training takes seconds, and the ways tests start it."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from diffexp.commands.locate import start_run
from diffexp.commands.train import train_run
from diffexp.config.load import load_experiment
from tests.helpers.warm import WarmProcess, warm

SMALL = [
    "model.timesteps=20",
    "model.schedule={'name': 'linear', 'beta_start': 0.001, 'beta_end': 0.5}",
    "model.network={'base_channels': 8, 'channel_multipliers': [1, 2], 'norm_num_groups': 4}",
    "training={'max_steps': 8, 'batch_size': 16, 'log_every_n_steps': 2, 'precision': '32-true'}",
    "optim={'warmup_steps': 2, 'lr': 1e-3}",
    "sample_grid={'every': 4, 'count': 6, 'samplers': {'ddim-50': None, 'ddim-5': {'name': 'ddim', 'steps': 5}}}",
    "checkpoint={'every': 4}",
    "score=null",
    "validation=null",
    "loggers=[csv]",
]


def experiment(*overrides: str):
    return load_experiment("digits", [*SMALL, *overrides])


def fit(run_dir: Path, *overrides: str):
    """Train here, in this process."""
    wanted = experiment(f"run_dir={run_dir}", *overrides)
    return train_run(wanted, start_run(wanted), [])


def diffexp(*arguments: str, cwd: Path, expect: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own; fail unless it exits with `expect`."""
    return finished(start(*arguments, cwd=cwd, **environment), ["diffexp", *arguments], expect)


def script(path: Path, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a Python script in a process of its own; fail unless it exits with 0."""
    return finished(start_script(path, *arguments, cwd=cwd, **environment), [str(path), *arguments], 0)


def finished(
    process: WarmProcess, command: list[str], expect: int, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Wait for a process; fail unless it exits with `expect`, and without a traceback."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == expect, f"exit {process.returncode}\n{out}\n{err}"
    if expect:
        assert "Traceback" not in err
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def start(
    *arguments: str, cwd: Path, streams: Sequence[int] = (), terminal: int | None = None, **environment: str
) -> WarmProcess:
    """Start the command line in a process of its own, which has imported everything already.

    It prints to files, unless there are descriptors of its standard input, output and error, or of its terminal.
    """
    return warm.start(arguments, cwd, {**os.environ, **environment}, streams=streams, terminal=terminal)


def start_script(path: Path, *arguments: str, cwd: Path, **environment: str) -> WarmProcess:
    """Start a Python script in a process of its own, which has imported torch and Lightning."""
    return warm.start(arguments, cwd, {**os.environ, **environment}, path)


def metrics(run_dir: Path):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
