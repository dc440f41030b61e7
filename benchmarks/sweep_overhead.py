"""Measure what `diffexp sweep run` adds to its trials, compared with the same commands without a sweep.

    python benchmarks/sweep_overhead.py [--trials 4] [--rounds 3]

One worker runs trials of a few steps, so that most of the time is the start of processes. Each round runs both ways.
Print a Markdown table with the median seconds per trial, and write benchmarks/results/sweep_overhead.json.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

FIXED = [
    "model.timesteps=20",
    "model.schedule={'name': 'linear', 'beta_start': 0.001, 'beta_end': 0.5}",
    "model.network={'base_channels': 8, 'channel_multipliers': [1, 2], 'norm_num_groups': 4}",
    "training={'max_steps': 20, 'batch_size': 16, 'precision': '32-true'}",
    "sample_grid=null",
    "score=null",
    "validation=null",
    "loggers=[csv]",
]


def diffexp(*arguments: str, cwd: str) -> None:
    """Run a diffexp command in a new process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "diffexp", *arguments]
    subprocess.run(command, cwd=cwd, env=environment, capture_output=True, check=True)


def bare(trials: int, folder: str) -> None:
    """Run the trainings one after another."""
    for seed in range(trials):
        diffexp("train", "digits", *FIXED, f"seed={seed}", cwd=folder)


def swept(trials: int, folder: str) -> None:
    """Run the same trainings as a sweep."""
    content = {
        "method": "grid",
        "command": ["diffexp", "train", "digits", *FIXED, "--trial", "overhead", "${args_json}"],
        "parameters": {"seed": {"values": list(range(trials))}},
    }
    Path(folder, "overhead.yaml").write_text(yaml.safe_dump(content))
    diffexp("sweep", "run", "overhead.yaml", cwd=folder)


def main() -> None:
    """Measure both ways, print the table and write the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=4, help="trials per round")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each way")
    given = parser.parse_args()
    seconds: dict[str, list[float]] = {"bare": [], "swept": []}
    for _ in range(given.rounds):
        for name, way in (("bare", bare), ("swept", swept)):
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                way(given.trials, folder)
                seconds[name].append((time.perf_counter() - start) / given.trials)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    added = statistics.median(two - one for one, two in zip(seconds["bare"], seconds["swept"], strict=True))
    print("| seconds a trial | median | of rounds |\n|---|---|---|")
    for name, values in seconds.items():
        print(f"| {name} | {medians[name]:.2f} | {', '.join(f'{value:.2f}' for value in values)} |")
    print(f"\nadded by the sweep: {added:.2f} s a trial (median over the rounds), {platform.processor() or 'CPU'}")
    result = {"trials": given.trials, "seconds_a_trial": seconds, "added": added, "platform": platform.platform()}
    path = Path(__file__).parent / "results" / "sweep_overhead.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
