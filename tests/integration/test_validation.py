"""Validation and the best checkpoint in complete runs."""

import json

import pytest

from diffexp.checkpoints.load import load_trained
from diffexp.checkpoints.paths import best_checkpoint, list_checkpoints, step_of
from diffexp.errors import UserError
from diffexp.runs.reader import RunReader
from tests.helpers.resumes import resume
from tests.helpers.small import fit, metrics
from tests.integration.test_training import assert_same, state

VALIDATED = [
    *("sample_grid=null", "model.network.dropout=0.2", "optim.decay=cosine"),
    "validation={every: 3, count: 5}",
    "checkpoint={every: 2, keep: null, monitor: val/bits_per_dim, mode: max}",
]


@pytest.fixture(scope="module")
def validated(tmp_path_factory):
    run = tmp_path_factory.mktemp("validated") / "run"
    fit(run, *VALIDATED)
    return run


def test_the_run_holds_one_file_a_validation_and_logs_the_same(validated):
    found = RunReader(validated, "run").validations
    rows = {row["step"]: row for row in metrics(validated) if "val/bits_per_dim" in row}
    assert [each.step for each in found] == list(rows) == [3, 6, 8]
    for each in found:
        assert each.mean().value == rows[each.step]["val/bits_per_dim"]
        assert each.mean("raw").value == rows[each.step]["val/bits_per_dim_raw"]
        assert each.bits_per_dim.keys() == {"ema", "raw", "train"}
        assert each.errors["ema"].shape == (5, 16)


def test_the_training_is_that_without_validation(validated, tmp_path):
    fit(tmp_path / "run", *VALIDATED[:-2], "checkpoint={every: 2, keep: null}")
    assert_same(state(validated), state(tmp_path / "run"))
    without = metrics(tmp_path / "run")
    assert [row for row in metrics(validated) if "train/loss" in row] == without


@pytest.mark.parametrize("step", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_a_run_killed_after_a_checkpoint_repeats_what_it_lost(validated, tmp_path, step):
    """Its later metrics, validations and its link remain."""
    run = tmp_path / "run"
    fit(run, *VALIDATED)
    for file in list_checkpoints(run / "checkpoints"):
        if step_of(file) > step:
            file.unlink()
    resume(run)
    assert_same(state(run), state(validated))
    assert metrics(run) == metrics(validated)
    for file in (validated / "validation").iterdir():
        assert (run / "validation" / file.name).read_bytes() == file.read_bytes()
    names = [file.name for file in list_checkpoints(validated / "checkpoints")]
    assert [file.name for file in list_checkpoints(run / "checkpoints")] == names
    assert best_checkpoint(run / "checkpoints").name == best_checkpoint(validated / "checkpoints").name


def test_the_best_checkpoint_is_that_of_the_best_row_and_loads_as_one_of_its_run(validated):
    rows = [row for row in metrics(validated) if "val/bits_per_dim" in row]
    best = max(rows, key=lambda row: row["val/bits_per_dim"])["step"]
    trained = load_trained(validated / "checkpoints" / "best.ckpt")
    assert (trained.step, trained.folder, trained.name) == (best, validated, "run")
    assert load_trained(validated).step == 8  # the latest


def test_a_run_killed_between_its_last_save_and_the_link_gets_the_link(tmp_path):
    run = tmp_path / "run"
    fit(run, *VALIDATED)
    linked = best_checkpoint(run / "checkpoints")
    (run / "checkpoints" / "best.ckpt").unlink()
    resume(run)
    assert best_checkpoint(run / "checkpoints") == linked


def test_patience_ends_a_run_as_finished(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"checkpoint\.monitor: expected a metric that training logs"):
        fit(run, *VALIDATED, "checkpoint.monitor=val/bpd")
    outcome = fit(run, *VALIDATED, "training.max_steps=40", "validation.every=1", "validation.patience=1")
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["step"]) == ("finished", outcome.step)
    assert status["reason"] == outcome.ended_early
    assert outcome.step < 40
    assert outcome.stopped_by is None
    resume(run)
    assert metrics(run)[-1]["step"] == outcome.step


def test_a_dataset_without_the_split_is_refused_before_anything_is_written(tmp_path):
    from PIL import Image

    for number in range(20):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("L", (8, 8), number).save(tmp_path / "images" / f"{number}.png")
    data = f"data={{name: image_folder, path: {tmp_path / 'images'}, image_size: 8, channels: 1}}"
    with pytest.raises(UserError, match=r"validation\.split = test needs them: set data\.held_out"):
        fit(tmp_path / "run", data, "validation.count=5")
    assert not (tmp_path / "run" / "config.yaml").exists()
