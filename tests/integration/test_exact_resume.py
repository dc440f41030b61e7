"""Resumed from any step, once or twice, a run ends bit for bit as the one that was not stopped."""

import functools
import shutil
import socket
from pathlib import Path

import pytest

from diffexp.checkpoints.paths import list_checkpoints
from tests.helpers import resumes
from tests.helpers.resumes import resume
from tests.helpers.small import SMALL, diffexp, finished, metrics, start_script
from tests.integration.test_training import assert_same, state

STEPS = 40
SAVED = 4  # steps between two checkpoints of a resumed run
LONG = [
    *SMALL,
    f"training.max_steps={STEPS}",
    "training.log_every_n_steps=3",
    "training.accelerator=cpu",
    "checkpoint={'every': 1, 'keep': None}",
    "sample_grid.every=20",
    "data.random_flip=true",
    "model.network.dropout=0.2",
    "optim.decay=cosine",
]

# By ranks and workers: every so many-th of the 39 single and of the 45 double resumes; all with --full.
SHARES = {1: {0: 8, 2: 20}, 2: {0: 18, 2: 36}}


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.slow)], ids="{} ranks".format)
def undisturbed(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    diffexp("train", "digits", *LONG, f"training.devices={request.param}", "run_dir=run", cwd=folder)
    return folder / "run", request.param


def stopped(run: Path, step: int, copy: Path) -> Path:
    """A copy of a run as it is when it is killed after the checkpoint of a step, and before the next."""
    ignored = [file.name for file in run.rglob("step-*") if int(file.name[5:13]) > step]
    ignored += [
        file.name for file in list_checkpoints(run / "checkpoints") if not file.name.startswith(f"step-{step:08d}")
    ]
    shutil.copytree(run, copy, ignore=lambda _, names: [name for name in names if name in ignored])
    return copy


def resume_all(runs: list[Path], ranks: int) -> None:
    if ranks == 1:
        for run in runs:
            resume(run)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        start_script(Path(resumes.__file__), *map(str, runs), cwd=Path.cwd(), LOCAL_RANK=str(rank), **address)
        for rank in range(ranks)
    ]
    for process in started:
        finished(process, ["resumes"], 0, timeout=1800)


state_of_reference = functools.cache(state)


def assert_same_run(one: Path, two: Path) -> None:
    kept = {file.name: file for file in list_checkpoints(two / "checkpoints")}
    for mine in list_checkpoints(one / "checkpoints"):
        assert_same(state(mine), state_of_reference(kept[mine.name]))
    assert metrics(one) == metrics(two)
    assert (one / "metrics.csv").read_text() == (two / "metrics.csv").read_text()
    pictures = sorted(file.name for file in (two / "samples").iterdir())
    assert sorted(file.name for file in (one / "samples").iterdir()) == pictures
    for name in pictures:
        assert (one / "samples" / name).read_bytes() == (two / "samples" / name).read_bytes()


@pytest.mark.slow
def test_one_and_two_resumes_from_any_step(undisturbed, tmp_path, pytestconfig):
    reference, ranks = undisturbed
    once, twice = [], []
    for workers, every in SHARES[ranks].items():
        here, every = tmp_path / f"{workers}-workers", 1 if pytestconfig.getoption("--full") else every
        singles = list(range(1, STEPS)) if every == 1 else list(range(3, STEPS, every))
        for step in singles:
            once.append(stopped(reference, step, here / f"{step}"))
            edit_config(once[-1], workers)
        tens = [step for step in range(3, STEPS, 4) if step in singles]
        pairs = [(a, b) for a in tens for b in range(SAVED, STEPS, SAVED) if a < b][::-every]
        assert len(pairs) >= 45 or every > 1
        twice += [(here / f"{a}", b, here / f"{a}-{b}") for a, b in pairs]
    resume_all(once, ranks)
    resume_all([stopped(*each) for each in twice], ranks)
    for run in [*once, *(copy for _, _, copy in twice)]:
        assert_same_run(run, reference)


def edit_config(run: Path, workers: int) -> None:
    config = run / "config.yaml"
    text = config.read_text().replace("num_workers: 0", f"num_workers: {workers}")
    config.write_text(text.replace("checkpoint:\n  every: 1\n", f"checkpoint:\n  every: {SAVED}\n"))
    assert f"every: {SAVED}" in config.read_text()
