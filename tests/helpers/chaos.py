"""Kills trainings with SIGKILL at random moments, and spoils their newest checkpoint now and then.

`python -m tests.helpers.chaos --kills 100` starts runs, kills each again and again, resumes it until it is
complete, and compares it with one that was never disturbed, bit for bit.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffexp.checkpoints.paths import list_checkpoints
from tests.helpers.small import SMALL, diffexp, metrics
from tests.helpers.warm import WarmProcess
from tests.integration.test_training import assert_same, state

RUN = [
    *SMALL,
    "training.max_steps=300",
    "training.log_every_n_steps=7",
    "checkpoint={'every': 5, 'keep': 3}",
    "sample_grid.every=100",
    "data.random_flip=true",
    "model.network.dropout=0.2",
    "optim.decay=cosine",
]
DAMAGES = ("cut off", "emptied", "one bit turned", "garbage")


@dataclass
class Tally:
    """What was done to the runs."""

    kills: int = 0
    while_saving: int = 0
    damaged: dict[str, int] = field(default_factory=dict)
    runs: int = 0
    equal: int = 0


Process = subprocess.Popen[str] | WarmProcess


def launch(*arguments: str, cwd: Path) -> Process:
    """Start the command line as a user does: Python may be killed while it still imports."""
    command = [sys.executable, "-m", "diffexp", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=cwd, text=True, **pipes)


def reference(folder: Path, *words: str) -> Path:
    """A run that nothing disturbs."""
    diffexp("train", "digits", *RUN, *words, "run_dir=reference", cwd=folder)
    return folder / "reference"


def tormented(
    folder: Path,
    name: str,
    kills: int,
    dice: random.Random,
    tally: Tally,
    seconds: float,
    words: Sequence[str] = (),
    launch: Callable[..., Process] = launch,
) -> Path:
    """A run killed so many times, at any moment of its process's life, and then let go on to the end."""
    command = ["train", "digits", *RUN, *words, f"run_dir={name}", "--resume"]
    run = folder / name
    killed = 0
    while killed < kills:
        process = launch(*command, cwd=folder)
        saving = _wait(process, run, dice, seconds)
        if process.poll() is None:
            process.kill()
            killed += 1
            tally.kills += 1
            tally.while_saving += saving
        code = process.wait()
        if code == 0:  # it was done before
            return run
        assert code == -signal.SIGKILL, process.communicate()[1][-3000:]
        found = list_checkpoints(run / "checkpoints")
        if len(found) > 1 and dice.random() < 0.6:  # so that it is about 30 % of all stops
            how = dice.choice(DAMAGES)
            damage(found[-1], how, dice)
            tally.damaged[how] = tally.damaged.get(how, 0) + 1
    diffexp(*command, cwd=folder)
    return run


def _wait(process: Process, run: Path, dice: random.Random, seconds: float) -> bool:
    """Wait for a random time; in half of the cases, then for a checkpoint that is being written. Whether one was."""
    deadline = time.monotonic() + dice.uniform(0, seconds)
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.001)
    if dice.random() < 0.5:
        patience = time.monotonic() + 2
        while time.monotonic() < patience and process.poll() is None:
            if any((run / "checkpoints").glob(".*.tmp")):
                return True
    return any((run / "checkpoints").glob(".*.tmp"))


def damage(path: Path, how: str, dice: random.Random) -> None:
    """Spoil a file as disks and cut off copies do."""
    content = bytearray(path.read_bytes())
    if not content:  # spoilt before
        return
    if how == "cut off":
        del content[dice.randrange(1, len(content)) :]
    elif how == "emptied":
        content.clear()
    elif how == "one bit turned":
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    else:
        content[:] = dice.randbytes(len(content))
    path.write_bytes(content)


def compare(run: Path, undisturbed: Path) -> None:
    """Weights, average, optimiser, logged curves and pictures must be the same, bit for bit."""
    assert_same(state(run), state(undisturbed))
    assert metrics(run) == metrics(undisturbed)
    assert (run / "metrics.csv").read_text() == (undisturbed / "metrics.csv").read_text()
    pictures = sorted((undisturbed / "samples").iterdir())
    assert [file.name for file in sorted((run / "samples").iterdir())] == [file.name for file in pictures]
    for file in pictures:
        assert (run / "samples" / file.name).read_bytes() == file.read_bytes()
    assert not list(run.rglob("*.tmp"))


def main() -> None:
    """Do it, and tell."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--kills", type=int, default=100)
    arguments.add_argument("--kills-a-run", type=int, default=8)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    dice, tally = random.Random(given.seed), Tally()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.monotonic()
        undisturbed = reference(folder)
        seconds = time.monotonic() - started
        print(f"the undisturbed run took {seconds:.1f} s", flush=True)
        while tally.kills < given.kills:
            kills = min(given.kills_a_run, given.kills - tally.kills)
            run = tormented(folder, f"run-{tally.runs + 1}", kills, dice, tally, seconds)
            tally.runs += 1
            compare(run, undisturbed)
            tally.equal += 1
            print(f"{tally.kills} kills, {tally.equal} of {tally.runs} runs equal", flush=True)
        damaged = ", ".join(f"{count} {how}" for how, count in sorted(tally.damaged.items()))
        print(
            f"{tally.kills} kills ({tally.while_saving} while a checkpoint was written) of {tally.runs} runs; "
            f"{sum(tally.damaged.values())} newest checkpoints spoilt ({damaged}); {tally.equal} of {tally.runs} runs "
            f"equal the undisturbed one bit for bit, in {(time.monotonic() - started) / 60:.0f} minutes"
        )


if __name__ == "__main__":
    main()
