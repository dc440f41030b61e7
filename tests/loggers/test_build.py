"""metrics.jsonl is the truth: no line is lost, cut or written twice."""

import json
import os

import pytest

from diffexp.config.schemas.common import WandbConfig
from diffexp.loggers.build import build_loggers
from diffexp.loggers.jsonl import JSONLLogger
from diffexp.runs.directory import Run
from diffexp.runs.metrics import read_metrics


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_later_lines_than_the_checkpoint_and_half_a_line_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "a": 1.0}\n{"step": 4, "a": 2.0}\n{"step": 6, "a": 3.0}\n{"step": 8, "a"')
    file = JSONLLogger(path, resume_step=4)
    file.log_metrics({"a": 5.0}, step=6)
    assert rows(path) == [{"step": 2, "a": 1.0}, {"step": 4, "a": 2.0}, {"step": 6, "a": 5.0}]


def test_what_a_resumed_run_makes_up_for_is_not_logged_twice(tmp_path):
    """Killed after the scores of step 4 were logged, and before their file said so."""
    run = Run(tmp_path)
    run.metrics.write_text('{"step": 4, "loss": 1.0}\n{"step": 4, "score": 7.0}\n')
    loggers = build_loggers(["csv"], run, 4, WandbConfig(), {})
    for logger in loggers:
        logger.log_metrics({"score": 7.0}, step=4)
        logger.log_metrics({"other": 1.0}, step=4)
        logger.log_metrics({"score": 7.0}, step=8)
    expected = [
        {"step": 4, "loss": 1.0},
        {"step": 4, "score": 7.0},
        {"step": 4, "other": 1.0},
        {"step": 8, "score": 7.0},
    ]
    assert rows(run.metrics) == expected
    assert (tmp_path / "metrics.csv").read_text().count("7.0") == 2


def test_lines_wait_until_the_file_can_be_written(tmp_path, caplog):
    path = tmp_path / "run" / "metrics.jsonl"
    file = JSONLLogger(path)
    file.log_metrics({"a": 1.0}, step=1)
    path.parent.rename(tmp_path / "away")
    for step in (2, 3):
        file.log_metrics({"a": float(step)}, step=step)
    with pytest.raises(FileNotFoundError):
        file.save()
    assert not path.parent.exists()
    (tmp_path / "away").rename(path.parent)
    file.log_metrics({"a": 4.0}, step=4)
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4]
    assert [record.message for record in caplog.records] == [
        f"{path} cannot be written: No such file or directory ({path}); training continues",
        f"{path} can be written again",
    ]


def test_half_a_line_that_a_full_disk_left_is_written_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = JSONLLogger(path)
    file.log_metrics({"a": 1.0}, step=1)
    with path.open("a") as torn:
        torn.write('{"step": 2, "a')
    file.log_metrics({"a": 2.0}, step=2)
    assert [row["step"] for row in rows(path)] == [1, 2]


@pytest.mark.parametrize("name", ["csv", "tensorboard"])
def test_a_mirror_may_fail(tmp_path, name, caplog):
    run = Run(tmp_path)
    _, mirror = build_loggers([name], run, 0, WandbConfig(), {})
    mirror.log_metrics({"a": 1.0}, step=1)
    mirror.logger.log_scalars = lambda *_: os.stat("/gone")
    for step in (2, 3):
        mirror.log_metrics({"a": 1.0}, step=step)
    (warning,) = (record.message for record in caplog.records)
    assert warning.startswith(f"the logger {name} cannot record: ")
    assert warning.endswith("; training continues")
