"""A run that is stopped and resumed is the run that was not."""

import json
import shutil
import signal
import time

import pytest
from PIL import Image

from diffexp.checkpoints.paths import list_checkpoints, step_of
from tests.helpers.resumes import resume
from tests.helpers.small import SMALL, diffexp, metrics, start
from tests.integration.test_training import assert_same, state

LONG = [
    *SMALL,
    "training.max_steps=40",
    "training.log_every_n_steps=3",
    "checkpoint={'every': 5, 'keep': None}",
    "sample_grid=null",
    "data.random_flip=true",
    "model.network.dropout=0.2",
    "optim.decay=cosine",
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("undisturbed")
    diffexp("train", "digits", *LONG, "run_dir=run", cwd=cwd)
    return cwd / "run"


def forget(run_dir, step):
    """Leave a run as a crash right after the checkpoint of a step would: without later ones, with later metrics."""
    for file in list_checkpoints(run_dir / "checkpoints"):
        if step_of(file) > step:
            file.unlink()


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("step", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_resumed_run_equals_undisturbed_one(tmp_path, undisturbed, step, workers):
    if workers:
        diffexp("train", "digits", *LONG, f"data.num_workers={workers}", "run_dir=run", cwd=tmp_path)
    else:
        shutil.copytree(undisturbed, tmp_path / "run")
    forget(tmp_path / "run", step)
    done = diffexp("train", "run", "--resume", cwd=tmp_path)
    assert "40 of 40 steps done" in done.stdout
    assert_same(state(tmp_path / "run"), state(undisturbed))
    assert metrics(tmp_path / "run") == metrics(undisturbed)
    assert (tmp_path / "run" / "metrics.csv").read_text() == (undisturbed / "metrics.csv").read_text()


def interrupted(command, cwd, seconds=0.0):
    """Send Ctrl-C so many seconds after the first checkpoint of the run in cwd/run; what was printed."""
    process = start(*command, cwd=cwd)
    deadline = time.monotonic() + 120
    while not list_checkpoints(cwd / "run" / "checkpoints") and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, err
    return out, err


@pytest.mark.slow
def test_ctrl_c_leaves_a_resumable_run(tmp_path, undisturbed):
    out, err = interrupted(["train", "digits", *LONG, "run_dir=run"], tmp_path)
    assert "resume with: diffexp train run --resume" in out
    assert "Traceback" not in err
    stopped = step_of(list_checkpoints(tmp_path / "run" / "checkpoints")[-1])
    assert 5 <= stopped < 40
    assert f'"state": "interrupted",\n  "step": {stopped}' in (tmp_path / "run" / "status.json").read_text()
    diffexp("train", "run", "--resume", cwd=tmp_path)
    assert_same(state(tmp_path / "run"), state(undisturbed))
    assert metrics(tmp_path / "run") == metrics(undisturbed)


@pytest.mark.slow
def test_what_may_and_what_may_not_change_on_resume(tmp_path, undisturbed):
    def resume(*overrides, expect=0):
        return diffexp("train", str(undisturbed), "--resume", *overrides, cwd=tmp_path, expect=expect)

    refused = resume("optim.lr=1", "data.random_flip=false", expect=2).stderr
    assert (
        "cannot resume, as these keys change the result:\n  data.random_flip: True in the run, False now\n"
        "  optim.lr: 0.001 in the run, 1.0 now" in refused
    )
    assert "40 of 40 steps done" in resume("checkpoint.every=7", "loggers=[]", "data.num_workers=1").stdout
    assert f"the steps that {undisturbed} has done, got 30" in resume("training.max_steps=30", expect=2).stderr


@pytest.mark.slow
def test_resume_with_a_run_dir_that_is_not_there_yet_starts(tmp_path):
    command = ["train", "digits", *SMALL, "training.max_steps=2", "sample_grid=null", "run_dir=run", "--resume"]
    assert "2 of 2 steps done" in diffexp(*command, cwd=tmp_path).stdout
    assert "2 of 2 steps done" in diffexp(*command, cwd=tmp_path).stdout


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over(tmp_path, undisturbed):
    shutil.copytree(undisturbed, tmp_path / "run")
    newest, before = list_checkpoints(tmp_path / "run" / "checkpoints")[:-3:-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    done = diffexp("train", "run", "--resume", cwd=tmp_path)
    assert f"WARNING: {newest.relative_to(tmp_path)}: is damaged" in done.stderr
    assert_same(state(tmp_path / "run"), state(undisturbed))
    assert step_of(before) == 35
    for file in list_checkpoints(tmp_path / "run" / "checkpoints"):
        file.write_bytes(b"")
    refused = diffexp("train", "run", "--resume", cwd=tmp_path, expect=2).stderr
    assert "expected a valid checkpoint, got only damaged ones" in refused


@pytest.mark.slow
def test_ctrl_c_in_the_last_grid_leaves_it_to_resume(tmp_path):
    command = [
        "train",
        "digits",
        *SMALL,
        "training.max_steps=2",
        "run_dir=run",
        "sample_grid.count=40",
        "model.timesteps=300",
    ]
    # the last step is saved before its grid is drawn
    out, _ = interrupted(command, tmp_path, seconds=0.3)
    assert not (tmp_path / "run" / "samples").exists()
    assert "resume with: diffexp train run --resume" in out
    assert "ddpm            300      40" in diffexp("train", "run", "--resume", cwd=tmp_path).stdout
    assert (tmp_path / "run" / "samples" / "step-00000002.png").is_file()


@pytest.mark.slow
def test_a_run_goes_on_from_another_folder_and_with_moved_data(tmp_path):
    images = tmp_path / "here" / "images"
    images.mkdir(parents=True)
    for index in range(20):
        Image.new("L", (8, 8), index * 10).save(images / f"{index}.png")
    data = "data={'name': 'image_folder', 'path': 'images', 'image_size': 8, 'channels': 1}"
    diffexp("train", "digits", *LONG, data, "training.max_steps=10", "run_dir=run", cwd=tmp_path / "here")
    forget(tmp_path / "here" / "run", 5)
    diffexp("train", "here/run", "--resume", cwd=tmp_path)
    images.rename(tmp_path / "moved")
    forget(tmp_path / "here" / "run", 5)
    refused = diffexp("train", "here/run", "--resume", cwd=tmp_path, expect=1).stderr
    assert str(images) in refused
    assert "or set data.path to its new place" in refused
    assert "10 of 10" in diffexp("train", "here/run", "--resume", "data.path=moved", cwd=tmp_path).stdout


@pytest.mark.slow
def test_each_start_is_recorded(tmp_path):
    command = ["train", "digits", *SMALL, "sample_grid=null", "run_dir=run", "--resume"]
    diffexp(*command, "training.max_steps=2", cwd=tmp_path)
    diffexp(*command, "training.max_steps=4", cwd=tmp_path)
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert [entry["command"][-1] for entry in [*environment["earlier"], environment]] == [
        "training.max_steps=2",
        "training.max_steps=4",
    ]
    assert environment["run_id"] == environment["earlier"][0]["run_id"]


@pytest.mark.slow
def test_longer_training_under_a_cosine_is_warned_of(tmp_path):
    command = ["train", "digits", *SMALL, "sample_grid=null", "run_dir=run", "--resume", "optim.decay=cosine"]
    diffexp(*command, "training.max_steps=2", cwd=tmp_path)
    assert "the learning rate leaves its cosine" in diffexp(*command, "training.max_steps=4", cwd=tmp_path).stderr


def test_resume_completes_the_records_of_a_run_killed_after_its_last_checkpoint(tmp_path, undisturbed):
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**status, "state": "running", "step": 35}))
    (run / "checkpoints" / ".step-00000040.ckpt.77-aaaa.tmp").write_bytes(b"half")
    spoilt = (run / "metrics.jsonl").read_text().replace('"step": 6', '"step"; 6')
    (run / "metrics.jsonl").write_text(spoilt)
    resume(run, "checkpoint.keep=2")
    after = json.loads((run / "status.json").read_text())
    assert [after[key] for key in ("state", "step", "steps", "seconds")] == ["finished", 40, 40, status["seconds"]]
    assert sorted(file.name for file in (run / "checkpoints").iterdir()) == ["step-00000035.ckpt", "step-00000040.ckpt"]
    assert metrics(run) == metrics(undisturbed)
    assert (run / "metrics.jsonl.damaged").read_text() == spoilt


@pytest.mark.slow
def test_a_run_whose_checkpoints_are_gone_does_not_begin_anew_in_silence(tmp_path, undisturbed):
    shutil.copytree(undisturbed, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    refused = diffexp("train", "run", "--resume", cwd=tmp_path, expect=2).stderr
    assert "expected a checkpoint, as the run has saved one, got none" in refused
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment.pop("saved") is True
    (tmp_path / "run" / "environment.json").write_text(json.dumps(environment))  # as version 0.2 wrote it
    assert refused == diffexp("train", "run", "--resume", cwd=tmp_path, expect=2).stderr


@pytest.mark.slow
def test_a_run_without_its_environment_can_be_resumed(tmp_path, undisturbed):
    shutil.copytree(undisturbed, tmp_path / "run")
    (tmp_path / "run" / "environment.json").unlink()
    done = diffexp("train", "run", "--resume", cwd=tmp_path)
    assert "training from the start" not in done.stderr
    assert_same(state(tmp_path / "run"), state(undisturbed))


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(tmp_path, undisturbed):
    """However long its curve is, and though nothing is missing, the old curve is kept."""
    command = ["train", "digits", *LONG, "run_dir=run", "--resume"]
    process = start(*command, "checkpoint.every=1000", "training.max_steps=100000", cwd=tmp_path)
    rows = tmp_path / "run" / "metrics.jsonl"
    while not rows.is_file() or not metrics(tmp_path / "run"):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["saved"] is False
    before = rows.read_text(), (tmp_path / "run" / "metrics.csv").read_text()
    done = diffexp(*command, cwd=tmp_path)
    assert "before its first checkpoint, so it starts again at step 0" in done.stderr
    assert "kept as metrics.jsonl.unsaved and metrics.csv.unsaved" in done.stderr
    kept = [(tmp_path / "run" / f"metrics.{ending}.unsaved").read_text() for ending in ("jsonl", "csv")]
    assert kept == list(before)
    assert_same(state(tmp_path / "run"), state(undisturbed))
    assert metrics(tmp_path / "run") == metrics(undisturbed)
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["saved"] is True
