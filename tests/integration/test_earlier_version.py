"""What diffexp 0.1 has left is read, resumed and compared under the current names, or refused with what to do.

`earlier_version` holds a run that 0.1 trained for 8 steps, without its checkpoint of step 8, and a sweep of which it
ran one trial of two.
"""

import json
import shutil
from pathlib import Path

import pytest

from diffexp.runs.reader import RunReader
from tests.helpers.small import diffexp, metrics

pytestmark = pytest.mark.slow

FILES = Path(__file__).parent / "earlier_version"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds the run as it was, and resumed until its last step."""
    folder = tmp_path_factory.mktemp("earlier")
    shutil.copytree(FILES / "run", folder / "old")
    shutil.copytree(FILES / "run", folder / "resumed")
    diffexp("train", "resumed", "--resume", cwd=folder)
    return folder


def test_a_run_is_resumed(folder):
    before, now = metrics(folder / "old"), metrics(folder / "resumed")
    assert now[:3] == before[:3]  # a row that was logged is not logged again under new names
    assert [row["step"] for row in now] == [row["step"] for row in before] == [2, 4, 4, 6, 8, 8]
    new_names = {"train/left_out": "train/skipped"}
    for old, new in zip(before[3:5], now[3:5], strict=True):
        assert new == pytest.approx({new_names.get(name, name): value for name, value in old.items()}, rel=1e-4)
    prefix = "score/ddim-2-eta0-ema/"
    old_score, new_score = before[5], now[5]
    for old_name, name in [
        ("fd", "fd"),
        ("fd_floor", "expected_fd"),
        ("nearest", "nn_distance_ratio"),
        ("copies", "memorized_fraction"),
        ("recall", "recall"),
    ]:
        expected = old_score[f"{prefix}{old_name}_digits_v1_130"]
        assert new_score[f"{prefix}{name}_digits_v1_130"] == pytest.approx(expected, rel=1e-3)


def test_it_is_compared_with_runs_of_this_version(folder):
    text = diffexp("compare", "old", "resumed", cwd=folder).stdout
    assert "Not comparable" not in text
    (score,) = (score for score in RunReader(folder / "old", "old").scores if score.step == 4)
    assert (score.metric, score.value) == ("fd_digits_v1_130", pytest.approx(32.695, abs=0.001))


def test_it_is_reproduced_and_sampled(folder):
    text = diffexp("reproduce", "old", "run_dir=again", cwd=folder).stdout
    assert "exist in only one of them" not in text
    assert "nothing then" not in text
    assert "nothing now" not in text
    diffexp("sample", "old", "count=2", "out=x.npz", cwd=folder)


def test_a_sweep_is_read_and_not_continued(tmp_path):
    shutil.copytree(FILES / "sweep", tmp_path / "sweep")
    assert "1 done, 1 pending" in diffexp("sweep", "status", "sweep", cwd=tmp_path).stdout
    (row, _) = json.loads(diffexp("sweep", "results", "sweep", "--format", "json", cwd=tmp_path).stdout)
    assert row["train/loss"] == pytest.approx(0.9964, abs=1e-4)
    assert "accumulate_grad_batches: 2" in diffexp("sweep", "best", "sweep", cwd=tmp_path).stdout
    for command in ("run", "submit"):
        message = diffexp("sweep", command, "sweep", cwd=tmp_path, expect=2).stderr
        assert "got one of diffexp 0.1" in message
        assert "Plan the sweep file again with --out DIR" in message
