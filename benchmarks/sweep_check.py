"""Measure the CPU time of `diffexp sweep check` and `plan` per trial.

    python benchmarks/sweep_check.py [--trials 5000] [--rounds 3] [--before CHECKOUT]

Each command runs in a new process on a grid of this many trials and on one of a single trial; the difference is the
time of the trials. With --before, each round also runs another checkout of diffexp, for the ratio. Print a Markdown
table with the median milliseconds per trial, and write benchmarks/results/sweep_check.json.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parents[1]


def grid(seeds: int) -> str:
    """Return a sweep file of 50 trials per seed; of one trial for 0 seeds."""
    rates = {"values": [round(1e-4 * k, 6) for k in range(1, 11)]} if seeds else {"value": 1e-4}
    names = (
        {"values": ["linear", "scaled_linear", "sigmoid", "proportional", "cosine"]} if seeds else {"value": "linear"}
    )
    content = {
        "method": "grid",
        "command": ["diffexp", "train", "digits", "--trial", "checked", "${args_json}"],
        "metric": {"name": "train/loss"},
        "parameters": {
            "seed": {"values": list(range(max(1, seeds)))},
            "optim": {"parameters": {"lr": rates}},
            "model": {"parameters": {"schedule": {"parameters": {"name": names}}}},
        },
    }
    return yaml.safe_dump(content)


def cpu_seconds(command: str, text: str, checkout: Path) -> float:
    """Run a command of `diffexp sweep` on a sweep file in a new process; return its CPU time."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "checked.yaml").write_text(text)
        words = [sys.executable, "-P", "-m", "diffexp", "sweep", command, "checked.yaml"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        subprocess.run(words, cwd=folder, env=environment, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure, print the table and write the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=5000, help="trials of the grid, a multiple of 50")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each command")
    parser.add_argument("--before", type=Path, help="another checkout of diffexp to compare with")
    given = parser.parse_args()
    checkouts = {"now": HERE, **({"before": given.before.resolve()} if given.before is not None else {})}
    found: dict[str, list[float]] = {}
    for _ in range(given.rounds):
        for command in ("check", "plan"):
            for name, checkout in checkouts.items():
                start = cpu_seconds(command, grid(0), checkout)
                all_trials = cpu_seconds(command, grid(given.trials // 50), checkout)
                found.setdefault(f"{command} {name}", []).append((all_trials - start) / (given.trials - 1) * 1000)
    medians = {name: statistics.median(values) for name, values in found.items()}
    print("| CPU milliseconds a trial | median | of rounds |\n|---|---|---|")
    for name, values in found.items():
        print(f"| {name} | {medians[name]:.2f} | {', '.join(f'{value:.2f}' for value in values)} |")
    ratios = {}
    if given.before is not None:
        ratios = {command: medians[f"{command} before"] / medians[f"{command} now"] for command in ("check", "plan")}
        print("\n" + ", ".join(f"{command}: {ratio:.1f} times faster" for command, ratio in ratios.items()))
    load = os.getloadavg()
    result = {"trials": given.trials, "ms": found, "ratios": ratios, "load": load, "platform": platform.platform()}
    (HERE / "benchmarks" / "results" / "sweep_check.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
