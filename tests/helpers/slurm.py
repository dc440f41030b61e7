"""A real Slurm of two virtual nodes, and sweeps on it whose trials last until a fault."""

import json
import os
import subprocess
import time
from pathlib import Path

import yaml

from tests.helpers.small import SMALL, diffexp
from tests.integration.test_training import assert_same, state

CLUSTER = Path(__file__).parents[1] / "integration" / "local-slurm"
STEPS, LOGGED = 60, 3
LONG = [
    *SMALL,
    f"training.max_steps={STEPS}",
    f"training.log_every_n_steps={LOGGED}",
    "checkpoint.every=12",
    "sample_grid=null",
    "model.network.dropout=0.2",
    "loggers=[csv,slow]",
    "--plugin",
    "slow",
]
PATIENCE = 240  # seconds for anything here; a dead node alone is seen after 30


# A logger that takes its time in a job of Slurm until the job is resumed (or, with a file slow-again, always), so that
# faults find the trial running.
SLOW = """
import os
import time
from dataclasses import dataclass
from pathlib import Path

from diffexp.config.schemas.loggers import LOGGERS, LoggerConfig
from diffexp.loggers.base import RunLogger


class Slow(RunLogger):
    def __init__(self, run):
        slow = Path("slow-again").exists() or not run.resume_step
        self.seconds = SECONDS if slow and "SLURM_JOB_ID" in os.environ else 0

    def log_scalars(self, values, step):
        time.sleep(self.seconds)


@LOGGERS.register("slow", Slow)
@dataclass
class SlowConfig(LoggerConfig):
    name: str = "slow"
"""


def sweep_file(folder, seconds, *words, seeds=(0, 1)):
    """Write a sweep; in Slurm, the first try of a trial sleeps so long at each of its `STEPS // LOGGED` points."""
    (folder / "slow.py").write_text(SLOW.replace("SECONDS", str(seconds)))
    content = {
        "method": "grid",
        "command": ["diffexp", "train", "digits", *LONG, *words, "--trial", "faults", "${args_json}"],
        "metric": {"name": "train/loss"},
        "parameters": {"seed": {"values": list(seeds)}},
    }
    (folder / "faults.yaml").write_text(yaml.safe_dump(content))
    return "faults.yaml"


class Cluster:
    def __init__(self, folder):
        self.folder = folder
        self.environment = {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "WANDB_MODE": "offline",
        }

    def call(self, *command, check=True):
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, check=check, timeout=60
        )
        return done.stdout

    def diffexp(self, *arguments, cwd, expect=0):
        return diffexp(*arguments, cwd=cwd, expect=expect, **self.environment)

    def power_off(self, node):
        subprocess.run([CLUSTER, "kill", self.folder, node], check=True, timeout=60)

    def power_on(self, node):
        subprocess.run([CLUSTER, "up", self.folder, node], check=True, timeout=60)


class Faulty:
    """A submitted sweep."""

    def __init__(self, cluster, folder, seconds, *words, seeds=(0, 1)):
        self.cluster = cluster
        self.folder = folder
        self.path = folder / "runs" / "faults"
        self.file = sweep_file(folder, seconds, *words, seeds=seeds)

    def submit(self, *arguments, expect=0):
        command = ("sweep", "submit", self.file, "--slurm", "--plugin", "slow", *arguments)
        return self.cluster.diffexp(*command, cwd=self.folder, expect=expect)

    def record(self, index):
        try:
            return json.loads((self.path / "records" / f"{index:04d}.json").read_text())
        except FileNotFoundError:
            return {"state": "pending", "tries": 0}

    def run(self, index):
        (found,) = (self.path / "trials").glob(f"{index:04d}-*")
        return found

    def saved(self, index):
        return [*self.path.glob(f"trials/{index:04d}-*/checkpoints/step-*.ckpt")]

    def wait(self, what):
        deadline = time.monotonic() + PATIENCE
        while not what():
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.2)

    def wait_until_saved(self, index=0):
        self.wait(lambda: self.saved(index) and self.record(index)["state"] == "running")

    def wait_until_done(self, *indices):
        self.wait(lambda: all(self.record(index)["state"] == "done" for index in indices))
        self.wait(lambda: not self.cluster.call("squeue", "--noheader").strip())

    def told(self):
        logs = "\n".join(f"--- {log}\n{log.read_text()[-2000:]}" for log in sorted((self.path / "logs").glob("*")))
        return f"{[self.record(0), self.record(1)]}\n{self.cluster.call('squeue')}\n{logs}"

    def node(self, index=0):
        return self.cluster.call("squeue", "--noheader", f"--job={self.record(index)['job']}", "--format=%N").strip()


def assert_each_once(sweep, undisturbed):
    """Every trial is done, in one directory, with the weights and the curve of a run that was never stopped."""
    assert len(list((sweep.path / "trials").iterdir())) == len(undisturbed)
    for index, expected in enumerate(undisturbed):
        assert sweep.record(index)["state"] == "done", sweep.told()
        assert_same(state(sweep.run(index)), expected)
        steps = [json.loads(line)["step"] for line in (sweep.run(index) / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(range(LOGGED, STEPS + 1, LOGGED))
