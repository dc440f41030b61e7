"""A run made again: bit for bit where nothing changed, and otherwise what did."""

import json
import re
import shutil
from importlib.metadata import version

import numpy as np
import pytest
import torch
from scipy import stats

from diffexp.reproduction.compare import compare_checkpoints, compare_metrics, compare_pictures
from diffexp.reproduction.recorded_run import find_recorded_run
from diffexp.reproduction.scores import compare_scores, is_same, scores_table, verdict
from diffexp.runs.directory import Run
from diffexp.runs.metrics import read_metrics
from diffexp.statistics.influence import Influence
from tests.helpers.resumes import resume
from tests.helpers.scored_run import scored_run
from tests.helpers.small import diffexp, fit

pytestmark = pytest.mark.slow

SCORED = "score={every: 4, count: 64, samplers: {ddim-50: null, ddpm: {name: ddpm}, ddim-5: {name: ddim, steps: 5}}}"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    fit(folder / "run", SCORED)
    return folder


@pytest.fixture
def folder(recorded, tmp_path):
    shutil.copytree(recorded / "run", tmp_path / "run")
    return tmp_path


def test_the_same_run_is_the_same_bit_for_bit(folder):
    printed = diffexp("reproduce", "run", cwd=folder).stdout
    assert re.search(r"^settings: the same\n", printed)
    assert re.search(r"^checkpoint \(\d{3} tensors and numbers\): equal$", printed, re.MULTILINE)
    rows = len((folder / "run" / "metrics.jsonl").read_text().splitlines())
    assert f"metrics ({rows} rows): equal\n" in printed
    assert "sample grids (6): equal\n" in printed
    assert printed.endswith("the result is the same, bit for bit\n")
    # it is a run of its own; again it need not be trained again
    assert json.loads((folder / "run-reproduced" / "status.json").read_text())["step"] == 8
    assert diffexp("reproduce", "run", cwd=folder).stdout.endswith("the result is the same, bit for bit\n")


def test_a_run_whose_config_changed_is_repeated_with_the_changes(tmp_path):
    fit(tmp_path / "run", "training.max_steps=3", "sample_grid=null", "checkpoint.every=1", "optim.decay=cosine")
    resume(tmp_path / "run", "training.accumulate_grad_batches=2", "training.max_steps=5")
    changed = ["optim.lr=5e-3", "model.weighting={name: min_snr, gamma: 3}", "training.precision=bf16-mixed"]
    resume(tmp_path / "run", *changed, "training.max_steps=7", allowed=["optim.lr", "model.weighting"])
    done = diffexp("reproduce", "run", cwd=tmp_path)
    assert (
        "from step 3 on, as in the recorded run, with other values of: training.accumulate_grad_batches" in done.stdout
    )
    assert "from step 5 on" in done.stdout
    assert done.stdout.endswith("the result is the same, bit for bit\n")
    again = [json.loads((tmp_path / run / "environment.json").read_text()) for run in ("run", "run-reproduced")]
    assert again[0]["changes"] == again[1]["changes"]
    assert {each["step"] for each in again[0]["changes"]} == {3, 5}
    early = diffexp("reproduce", "run/checkpoints/step-00000006.ckpt", "run_dir=early", cwd=tmp_path)
    assert early.stdout.endswith("the result is the same, bit for bit\n")


def test_an_interrupted_repetition_continues_in_its_part(tmp_path):
    fit(tmp_path / "run", "training.max_steps=4", "sample_grid=null", "checkpoint.every=1", "optim.decay=none")
    resume(tmp_path / "run", "optim.lr=5e-3", "training.max_steps=8", allowed=["optim.lr"])
    for kept in (2, 6):
        diffexp("reproduce", "run", "checkpoint.keep=null", f"run_dir=until-{kept}", cwd=tmp_path)
        for file in (tmp_path / f"until-{kept}" / "checkpoints").iterdir():
            if int(file.stem[5:]) > kept:
                file.unlink()
        printed = diffexp("reproduce", "run", "checkpoint.keep=null", f"run_dir=until-{kept}", cwd=tmp_path)
        assert f"step-{kept:08d}.ckpt" in printed.stderr
        assert printed.stdout.endswith("the result is the same, bit for bit\n")


def test_an_earlier_checkpoint_is_reproduced_up_to_its_step(folder):
    done = diffexp("reproduce", "run/checkpoints/step-00000004.ckpt", cwd=folder)
    assert "the same, bit for bit" in done.stdout
    names = {file.name for file in (folder / "run-reproduced" / "checkpoints").iterdir()}
    assert names == {"step-00000004.ckpt"}


def test_a_changed_setting_is_named(folder):
    done = diffexp("reproduce", "run", "optim.lr=1e-7", cwd=folder)
    assert re.search(r"^\| optim.lr +\| 0.001 +\| 1e-07 +\|$", done.stdout, re.MULTILINE)
    assert re.search(r"^metrics .* differ from step 2, first train/", done.stdout, re.MULTILINE)
    assert "state_dict." in done.stdout
    assert "not the same bit for bit" in done.stdout


def test_a_config_that_was_edited_since_is_named(folder):
    config = folder / "run" / "config.yaml"
    config.write_text(config.read_text().replace("weight_decay: 0.01", "weight_decay: 0.02"))
    done = diffexp("reproduce", "run", cwd=folder)
    assert re.search(r"^\| optim.weight_decay +\| 0.01 +\| 0.02 +\|$", done.stdout, re.MULTILINE)


def test_other_versions_are_told(folder):
    file = folder / "run" / "environment.json"
    environment = json.loads(file.read_text())
    environment["packages"]["torch"] = "2.9.0"
    environment["git"] = {"commit": "0" * 40, "dirty": True}
    file.write_text(json.dumps(environment))
    printed = diffexp("reproduce", "run", cwd=folder).stdout
    assert re.search(rf"^\| packages.torch +\| 2.9.0 +\| {re.escape(version('torch'))} ", printed, re.MULTILINE)
    assert "uncommitted changes" in printed
    assert "the same, bit for bit" in printed


def test_within_the_spread_of_seeds_or_not(folder):
    """One rounding error of another machine, amplified: weights differ, and the scores stay near."""
    same = diffexp("reproduce", "run", "optim.eps=1.01e-8", cwd=folder).stdout
    assert "not the same bit for bit, and within the spread of the scores" in same
    done = diffexp("reproduce", "run", "optim.eps=1.01e-8", "--seeds", "2", cwd=folder)
    assert "within the spread of 3 seeds" in done.stdout
    assert len(list(folder.glob("run-reproduced-*-seed[12]"))) == 2
    far = diffexp("reproduce", "run", "optim.lr=2", cwd=folder, expect=1)
    assert "outside the spread of the scores" in far.stdout


def test_what_cannot_be_reproduced_is_told(folder):
    assert (
        "no: expected a run directory, a checkpoint, or ENTITY/PROJECT/ID"
        in diffexp("reproduce", "no", cwd=folder, expect=2).stderr
    )
    shutil.rmtree(folder / "run" / "checkpoints")
    assert "expected a checkpoint to compare with, got none" in diffexp("reproduce", "run", cwd=folder, expect=2).stderr


def test_a_plugin_is_never_imported_because_a_run_says_so(folder):
    file = folder / "run" / "environment.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "plugins": ["theirs"]}))
    (folder / "theirs.py").write_text("raise SystemExit(99)")
    refused = diffexp("reproduce", "run", cwd=folder, expect=2).stderr
    assert "expected --plugin theirs, as in its training. Add it if you trust the module." in refused


def test_recordings(folder):
    recording = find_recorded_run(str(folder / "run"))
    assert (recording.step, len(recording.metrics)) == (8, 6)
    early = find_recorded_run(str(folder / "run" / "checkpoints" / "step-00000004.ckpt"))
    assert {row["step"] for row in early.metrics} == {2, 4}
    assert early.checkpoint["global_step"] == 4


def test_one_changed_number_is_found():
    before = {"state_dict": {"w": torch.tensor([1.0, 2.0])}, "optimizer_states": [{"step": 3}], "config": "a"}
    now = {"state_dict": {"w": torch.tensor([1.0, 2.5])}, "optimizer_states": [{"step": 3}], "config": "b"}
    assert compare_checkpoints(before, {**before, "config": "b"}).difference == ""
    assert compare_checkpoints(before, now).difference == "1 differ, first state_dict.w; weights differ by at most 0.5"
    assert "exist in only one of them" in compare_checkpoints(before, {**now, "callbacks": {"x": 1}}).difference
    rows = [{"step": 2, "train/loss": 1.0}, {"step": 4, "train/loss": 0.5}]
    assert compare_metrics(rows, rows).difference == ""
    assert compare_metrics(rows, rows[:1]).difference == "1 rows now"
    printed = compare_metrics(rows, [rows[0], {"step": 4, "train/loss": 0.6}]).difference
    assert printed == "differ from step 4, first train/loss: 0.5 then, 0.6 now"


def test_pictures_that_the_training_did_not_draw_do_not_count(tmp_path):
    for folder, other in (("then", b"a"), ("now", b"b")):
        (tmp_path / folder).mkdir()
        for name in ("step-00000004.png", "step-00000004-ddpm.png"):
            (tmp_path / folder / name).write_bytes(b"same")
        (tmp_path / folder / "step-00000008-ddpm.png").write_bytes(other)
    (tmp_path / "then" / "step-00000004-ddim-50.png").write_bytes(b"drawn into the folder by hand")
    (tmp_path / "then" / "step-00000004-ddpm-count=3.png").write_bytes(b"drawn by hand, too")
    compared = [compare_pictures(tmp_path / "then", tmp_path / "now", step, ["ddpm"]) for step in (4, 8)]
    assert [str(each) for each in compared] == [
        "sample grids (2): equal",
        "sample grids (3): 1 differ, first step-00000008-ddpm.png",
    ]


def test_scores_are_the_last_distances_alone():
    row = {
        "step": 8,
        "score/ddim-5-eta0-ema/fd_digits_v1_500": 2.0,
        "score/ddim-5-eta0-ema/fd_error_digits_v1_500": 0.1,
        "score/ddim-5-eta0-ema/expected_fd_digits_v1_500": 0.6,
        "score/ddim-5-eta0-ema/fd_digits_v1_500_best": 1.5,
        "score/ddim-5-eta0-ema/kd_digits_v1_500": 0.2,
        "score/fd_digits_v1_500_best": 1.5,
    }
    inception = {"step": 8, "score/ddpm-ema/fid50k": 3.0, "score/ddpm-ema/fd_error_inception_50k": 0.2}
    now = {**row, "score/ddim-5-eta0-ema/fd_digits_v1_500": 2.25}
    compared = compare_scores([row], [now, {"step": 9, "train/loss": 1.0}], [])
    (found,) = compared
    assert found.name == "score/ddim-5-eta0-ema/fd_digits_v1_500"
    # z = .25 / √(.1² + .1²) = 1.77
    assert (found.difference.value, found.difference.error) == (0.25, pytest.approx(0.1 * 2**0.5))
    assert found.difference.p == pytest.approx(2 * stats.norm.sf(0.25 / 0.1 / 2**0.5))
    assert is_same(compared)
    assert "then and now are not distinguishable by" in verdict(compared)
    far = compare_scores([row], [{**now, "score/ddim-5-eta0-ema/fd_digits_v1_500": 2.3}], [])
    assert not is_same(far)
    assert verdict(far).startswith("now is worse: score/ddim-5-eta0-ema/fd_digits_v1_500 is higher by 0.3")
    assert "Measure that spread with --seeds 3." in verdict(far)
    (found,) = compare_scores([inception], [inception], [])
    assert (found.name, found.difference.error) == ("score/ddpm-ema/fid50k", pytest.approx(0.2 * 2**0.5))
    assert compare_scores([row], [{**now, "step": 4}], []) == []


def test_scores_of_the_same_images_are_paired(tmp_path):
    random = np.random.default_rng(0)
    one = random.normal(2, 1, 100)
    two = one + random.normal(0.01, 0.1, 100)
    rows, runs = [], []
    for name, values in (("then", one), ("now", two)):
        scored_run(tmp_path / name, values.mean(), influence=Influence.linear(values, 100))
        runs.append(Run(tmp_path / name))
        rows.append(read_metrics(runs[-1].metrics))
    (found,) = compare_scores(rows[0], rows[1], [], (runs[0], runs[1]))
    paired = stats.ttest_rel(two, one)
    assert found.difference.p == pytest.approx(paired.pvalue, rel=1e-4)
    assert found.difference.test == "paired over 100 images"
    (found,) = compare_scores(rows[0], rows[1], [])  # a run that only W&B holds
    assert found.difference is None


def test_few_seeds_decide_with_the_prediction_interval():
    def compared(before, *seeds):
        rows = [[{"step": 8, "score/ddpm-ema/fid50k": value}] for value in (before, *seeds)]
        return compare_scores(rows[0], rows[1], rows[2:])

    # values 1.0, 1.2: mean 1.1, sd .1414; t(1, 97.5 %) = 12.71, so 2.0 is within 12.71 × .1414 × √1.5 = 2.2
    assert is_same(compared(2.0, 1.0, 1.2))
    assert not is_same(compared(3.4, 1.0, 1.2))
    values = [1.0, 1.2, 1.15, 0.9]
    (found,) = compared(1.5, *values)
    half = stats.t.ppf(0.975, 3) * np.std(values, ddof=1) * (1 + 1 / 4) ** 0.5
    low, high = found.difference.interval()
    assert (high - low) / 2 == pytest.approx(half)
    assert "| 1.5 " in scores_table(compared(1.5, *values)).markdown()
