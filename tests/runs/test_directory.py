"""Run directories."""

import json

import pytest

from diffexp.config.load import load_evaluate_request, load_experiment
from diffexp.config.trial import Trial
from diffexp.errors import UserError
from diffexp.runs.directory import grids, new_run
from diffexp.runs.metrics import read_metrics


def test_a_start_that_was_killed_while_it_wrote_can_be_begun_again(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "environment.json").write_text("{}")
    (run / ".config.yaml.77-aaaa.tmp").write_text("nam")
    (run / ".lock").touch()
    assert new_run(load_experiment("digits", [f"run_dir={run}"])).path == run
    (run / "mine.txt").touch()
    with pytest.raises(UserError, match="expected a new or empty directory"):
        new_run(load_experiment("digits", [f"run_dir={run}"]))


def test_what_evaluates_a_run_appears_in_wandb_where_the_run_does():
    trained = load_experiment("digits", ["wandb.project=mine", "wandb.entity=team"])
    request = load_evaluate_request("evaluate/ddim_table", [], trained, Trial("s", {"sampler": {"name": "ddim"}}))
    assert (request.wandb.project, request.wandb.entity) == ("mine", "team")
    assert (request.wandb.group, request.wandb.name) == ("s", "sampler=ddim")


def test_only_what_training_draws_is_a_grid(tmp_path):
    mine = ["step-00000008.png", "step-00000008-ddim-5-count=3.png", "step-00000008-ddpm.jpg", "step-ddpm.png", "x.png"]
    for name in ["step-00000008-ddim-5.png", "step-00000004-ddim-5.png", "step-00000008-über_2.png", *mine]:
        (tmp_path / name).touch()
    assert [(step, name) for step, name, _ in grids(tmp_path)] == [(4, "ddim-5"), (8, "ddim-5"), (8, "über_2")]


@pytest.mark.parametrize(
    ("line", "whole"),
    [
        ('{"step": 4, "a": 1.5}', True),
        ('{"step": 4, "a": NaN}', True),
        ('{"step": 4, "a": 1.5', False),
        ('{"step": 4, "a": "1.5"}', False),
        ('{"step": 4, "a": 1.5, "a": 2.5}', False),
        ('{"step": true, "a": 1.5}', False),
        ('{"stap": 4, "a": 1.5}', False),
        ('["step", "a"]', False),
        ("", False),
        ("\0" * 20, False),
        (b"\xff\xfe", False),
        ('{"step": 4, "a": 1.5}{"step": 6, "a": 1.5}', False),
    ],
)
def test_damaged_lines_are_skipped_with_a_warning_that_names_them(tmp_path, caplog, line, whole):
    path, first, last = tmp_path / "metrics.jsonl", {"step": 2, "a": 0.5}, {"step": 8, "a": 2.5}
    raw = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(b"\n".join([json.dumps(first).encode(), raw, json.dumps(last).encode()]))
    for _ in range(2):
        assert [row["step"] for row in read_metrics(path)] == ([2, 4, 8] if whole else [2, 8])
    assert caplog.text.count("got damage in line 2, which diffexp skips") == (not whole)


def test_half_a_line_at_the_end_is_being_written(tmp_path, caplog):
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "a": 0.5}\n{"step": 4, "a')
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 2, "a": 0.5}]
    assert caplog.text == ""
