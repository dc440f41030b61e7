"""Measure one training on 1, 2 and 4 ranks of one machine, and one sweep with 1, 2 and 4 workers.

    python benchmarks/scaling.py [--ranks 1,2,4] [--workers 1,2,4] [--rounds 2]

- Ranks: `diffexp train digits` at the same global batch size. The time of a step is the difference between a long and a
  short run, divided by their difference in steps, so that startup does not count.
- Workers: seconds of `diffexp sweep run` for four short trials, startup included.

On a CPU, all ranks and workers share its cores. Nothing scales beyond them; the table shows the cost of sharing.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from measuring import arguments, quotients, report, spread

PLAIN = ["sample_grid=null", "validation=null", "score=null", "loggers=[csv]", f"checkpoint.every={10**9}"]
SHORT, LONG = 20, 120


def diffexp(*options: str, cwd: str) -> float:
    """Run a diffexp command and return its wall-clock seconds."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-P", "-m", "diffexp", *options], cwd=cwd, capture_output=True, check=True, env=os.environ
    )
    return time.perf_counter() - start


def step_seconds(ranks: int, accelerator: str) -> float:
    """Seconds per step of the quickstart's training on this many ranks."""
    options = [*PLAIN, f"training.devices={ranks}", f"training.accelerator={accelerator}"]
    with tempfile.TemporaryDirectory() as folder:
        short, long = (
            diffexp("train", "digits", *options, f"training.max_steps={steps}", cwd=folder) for steps in (SHORT, LONG)
        )
    return (long - short) / (LONG - SHORT)


def sweep_seconds(workers: int, accelerator: str) -> float:
    """Seconds of a sweep of four trials with this many workers."""
    options = [*PLAIN, "training.max_steps=100", "training.batch_size=32", f"training.accelerator={accelerator}"]
    content = {
        "method": "grid",
        "command": ["diffexp", "train", "digits", *options, "--trial", "scaling", "${args_json}"],
        "parameters": {"seed": {"values": [0, 1, 2, 3]}},
    }
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "scaling.yaml").write_text(yaml.safe_dump(content))
        return diffexp("sweep", "run", "scaling.yaml", f"--workers={workers}", cwd=folder)


def main() -> None:
    """Measure all candidates, print the table and write the results."""
    parser = arguments(__doc__, rounds=2)
    parser.add_argument("--ranks", default="1,2,4", help="numbers of ranks")
    parser.add_argument("--workers", default="1,2,4", help="numbers of workers")
    given = parser.parse_args()
    accelerator = "gpu" if given.device == "cuda" else "cpu"
    steps: dict[int, list[float]] = {int(each): [] for each in given.ranks.split(",")}
    sweeps: dict[int, list[float]] = {int(each): [] for each in given.workers.split(",")}
    for _ in range(given.rounds):
        for ranks, measured in steps.items():
            measured.append(step_seconds(ranks, accelerator))
        for workers, measured in sweeps.items():
            measured.append(sweep_seconds(workers, accelerator))
    rows = [
        [f"{count} {what}", f"{statistics.median(values) * scale:.1f} {unit}", spread(quotients(base, values))]
        for what, scale, unit, table in (("ranks", 1000, "ms a step", steps), ("workers", 1, "s a sweep", sweeps))
        for base in [next(iter(table.values()))]
        for count, values in table.items()
    ]
    report(given, "scaling", ["on", "takes", "× one"], rows, cores=os.cpu_count(), ranks=steps, workers=sweeps)


if __name__ == "__main__":
    main()
