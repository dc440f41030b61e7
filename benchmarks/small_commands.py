"""Measure the CPU time of small commands: mistakes, and reports of many runs.

    python benchmarks/small_commands.py [--runs 30] [--rounds 5]

The commands take turns, each in a new process. Every number is the CPU time of the process, user and system; quotients
are with the import of torch in the same round. Prints a Markdown table and writes results/small_commands-cpu.json.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import arguments, quotients, report, show, spread

TRAINING = [
    "model.timesteps=20",
    "model.schedule={'name': 'linear', 'beta_start': 0.001, 'beta_end': 0.5}",
    "model.network={'base_channels': 8, 'channel_multipliers': [1, 2], 'norm_num_groups': 4}",
    "training={'max_steps': 40, 'batch_size': 16, 'log_every_n_steps': 1, 'precision': '32-true'}",
    "sample_grid={'every': 10, 'count': 16}",
    "score={'every': 10, 'count': 64}",
    "validation=null",
    "loggers=[]",
]


def make_runs(folder: Path, count: int) -> list[Path]:
    """Train one small run, and copy it with other seeds, learning rates and schedules."""
    first = folder / "run-0"
    diffexp(folder, "train", "digits", *TRAINING, f"run_dir={first}")
    config = (first / "config.yaml").read_text()
    runs = [first]
    for number in range(1, count):
        run = folder / f"run-{number}"
        shutil.copytree(first, run)
        changed = re.sub(r"^seed: 0$", f"seed: {number}", config, flags=re.MULTILINE)
        changed = re.sub(r"^  lr: .*$", f"  lr: {1e-3 * (1 + number % 3)}", changed, flags=re.MULTILINE)
        changed = re.sub(r"beta_end: .*$", f"beta_end: {0.1 * (1 + number % 5)}", changed, flags=re.MULTILINE)
        (run / "config.yaml").write_text(changed)
        runs.append(run)
    return runs


def diffexp(folder: Path, *words: str, code: int = 0) -> float:
    """Run a diffexp command, check its exit code, and return its CPU seconds."""
    return cpu_seconds(folder, [sys.executable, "-m", "diffexp", *words], code)


def cpu_seconds(folder: Path, command: list[str], code: int = 0) -> float:
    """Run a command, check its exit code, and return the CPU seconds of its process and its children."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        if process.returncode != code:
            raise SystemExit(f"{' '.join(command)}: exit {process.returncode}\n{output.read().decode()}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure all commands, print the table and write the results."""
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--runs", type=int, default=30, help="runs in the report")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        runs = make_runs(folder, given.runs)
        torch, reported = "import torch", f"report of {given.runs} runs"
        commands = {
            torch: ([sys.executable, "-c", "import torch"], 0),
            "sample, a misspelt sampler": (_diffexp("sample", str(runs[0]), "sampler=ddmi"), 2),
            "evaluate, a misspelt key": (_diffexp("evaluate", str(runs[0]), "sampler=ddim", "cout=100"), 2),
            "report, a misspelt run": (_diffexp("report", "run-none"), 2),
            reported: (_diffexp("report", *map(str, runs), "--out=report.html", "--overwrite"), 0),
        }
        names = list(commands)
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for number in range(given.rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                seconds[name].append(cpu_seconds(folder, *commands[name]))
            show(f"round {number + 1} of {given.rounds}")
        show("")
    rows = [
        [name, spread(values), spread(quotients(values, seconds[torch]), ".2f")] for name, values in seconds.items()
    ]
    report(given, "small_commands", ["command", "CPU seconds", "× import torch"], rows, seconds=seconds)


def _diffexp(*words: str) -> list[str]:
    return [sys.executable, "-m", "diffexp", *words]


if __name__ == "__main__":
    main()
