"""What a user sees of a command, on a terminal and in a log."""

import fcntl
import itertools
import os
import pty
import re
import struct
import termios
import time
from types import SimpleNamespace

import pytest

from diffexp.callbacks import time_estimate
from diffexp.commands.overview import check_data
from tests.helpers.small import SMALL, diffexp, experiment, fit, start

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("visible") / "run"
    fit(run_dir, "sample_grid=null")
    return run_dir


def in_a_terminal(*arguments, cwd, term):
    """Run a command in a pseudo-terminal; return all that it prints, with the newlines of a file."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = start(*arguments, cwd=cwd, terminal=other, TERM=term, WANDB_MODE="offline")
    os.close(other)
    printed = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # the process has ended
            break
        if not part:
            break
        printed += part
    os.close(main)
    assert process.wait(60) == 0, printed.decode()
    return printed.decode().replace("\r\n", "\n")


def in_a_log(*arguments, cwd, **_):
    """Run a command with a file as its output; return what it prints."""
    with open(os.devnull) as nothing, (cwd / "log").open("w") as log:
        streams = [nothing.fileno(), log.fileno(), log.fileno()]
        process = start(*arguments, cwd=cwd, streams=streams, WANDB_MODE="offline")
    assert process.wait(300) == 0, (cwd / "log").read_text()
    return (cwd / "log").read_text()


TRAIN = ["train", "digits", *SMALL, "loggers=[csv,wandb]", "run_dir=trained"]


@pytest.mark.parametrize(("place", "term"), [(in_a_log, ""), (in_a_terminal, "dumb")])
@pytest.mark.parametrize(
    "command",
    [
        TRAIN,
        ["sample", "RUN", "sampler.steps=20", "count=60", "batch_size=10", "out=x.npz"],
        ["sweep", "run", "sweep.yaml"],
    ],
    ids=["train", "sample", "sweep"],
)
def test_a_log_gets_lines_only(run, tmp_path, command, place, term):
    sweep = ["diffexp", "train", "digits", *SMALL, "sample_grid=null", "--trial", "small", "${args_json}"]
    words = "".join(f'  - "{word}"\n' for word in sweep)
    (tmp_path / "sweep.yaml").write_text(
        f"method: grid\nmetric: {{name: train/loss, goal: minimize}}\ncommand:\n{words}"
        "parameters: {seed: {values: [1, 2]}}\n"
    )
    started = time.monotonic()
    printed = place(*[str(run) if word == "RUN" else word for word in command], cwd=tmp_path, term=term)
    assert not {"\r", "\x1b"} & set(printed)
    assert len(re.findall(r" passed, ", printed)) <= 1 + (time.monotonic() - started) / 30
    if command[0] == "train":
        assert "train: 8 of 8 steps, " in printed
    if command[0] == "sweep":
        assert re.search(r"^small: 2 of 2 trials: 100 %, ", printed, re.MULTILINE)


def test_a_terminal_gets_a_bar(tmp_path):
    printed = in_a_terminal(*TRAIN, "sample_grid=null", "loggers=[csv]", cwd=tmp_path, term="xterm")
    assert "\rtrain: 100%|█" in printed


# --- the start of a training


def test_a_training_starts_with_what_it_trains_on(tmp_path):
    options = [*SMALL, "sample_grid=null", "data.held_out=97", "training.accumulate_grad_batches=2"]
    expected = [
        r"images      1,520 of digits, and 97 more that are held out",
        r"classes     10 \(0, 1, 2 and 7 more\), which the model does not use",
        r"size        8×8 pixels, as they are, grey",
        r"skipped     no files",
        r"parameters  \d\d,\d\d\d",
        r"precision   32-true",
        r"device      1 × (cpu|auto|cuda)",
        r"steps       8; together 0.0842 passes over the images",
        r"batch       16 images a step \(2 accumulated batches × 8 images\)",
    ]
    trained = diffexp("train", "digits", *options, "run_dir=x", cwd=tmp_path).stderr
    checked = diffexp("config", "check", "digits", *options, "--data", cwd=tmp_path).stdout
    for printed in (trained, checked):
        assert re.search("\n".join(rf"  {line}" for line in expected), printed), printed
    assert "time        estimated after the first steps" in trained
    resumed = diffexp("train", "x", "training.max_steps=12", "--resume", cwd=tmp_path).stderr
    assert "steps       4 left of 12;" in resumed


def test_check_of_the_data_fails_as_training_does(tmp_path):
    for overrides in (["model.classes=11"], ["data.held_out=5000"], ["data.name=image_folder", "data.path=nowhere"]):
        checked = diffexp("config", "check", "digits", *overrides, "--data", cwd=tmp_path, expect=2).stderr
        assert checked == diffexp("train", "digits", *overrides, cwd=tmp_path, expect=2).stderr


@pytest.mark.parametrize(
    ("steps", "expected"), [(1000, "about 33 min, without grids and scores"), (3, "too few steps for an estimate")]
)
def test_a_check_of_the_data_measures_some_steps(tmp_path, monkeypatch, steps, expected):
    """By a clock on which each takes 2 s."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time_estimate, "time", SimpleNamespace(monotonic=itertools.count(0.0, 2.0).__next__))
    printed = check_data(experiment(f"training.max_steps={steps}", "training.accumulate_grad_batches=2"))
    assert printed.endswith(f"\n  time        {expected}")
    assert not list(tmp_path.iterdir())


def test_the_time_is_estimated_from_the_first_steps(tmp_path):
    overrides = [*SMALL, "sample_grid=null", "training.max_steps=1000000", "training.batch_size=64"]
    reads, writes = os.pipe()
    process = start("train", "digits", *overrides, "run_dir=x", cwd=tmp_path, streams=[0, 1, writes])
    os.close(writes)
    try:
        with open(reads) as printed:
            line = next(line for line in printed if line.startswith("estimated time"))
        assert re.fullmatch(
            r"estimated time: about [\d.]+ h for the other 999,\d+ steps, without grids and scores\n", line
        )
    finally:
        process.kill()
        process.wait(60)
