"""Records of a run that a disk, a copy or an editor damaged: reports do without them, and what needs one names it."""

import json
import os
import shutil
import sys

import pytest

from diffexp.cli.main import main
from diffexp.errors import UserError
from diffexp.runs import records
from diffexp.runs.directory import Run
from diffexp.runs.reader import read_runs
from diffexp.runs.recovery import kept_rows
from tests.helpers.small import fit

DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "bytes": lambda path: path.write_bytes(b"\xff\xfe\x00\n"),
    "a list": lambda path: path.write_text("[1, 2]\n"),
    "other values": lambda path: path.write_text(
        '{"step": "x", "steps": {}, "state": 5, "seconds": "a", "scores": [1], "cells": 3, "about": 1, "values": [],'
        ' "earlier": 3, "run_id": 7, "gpus": 3, "plugins": 5}\n'
    ),
    "deep": lambda path: path.write_text("[" * 100_000 + "\n"),
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a loop": lambda path: path.symlink_to(path),
}
RECORDS = (
    *("environment.json", "status.json", "metrics.jsonl", "samples", "scores", "samples/step-00000008-ddim-5.png"),
    *("scores/step-00000008.json", "evaluations/one/table.json", "evaluations/one/likelihood.json", "table.json"),
)
# Without rows; only values of other types, which are dropped.
SILENT = [("metrics.jsonl", "empty"), ("environment.json", "other values")]
SILENT += [(f"evaluations/one/{name}.json", "a loop") for name in ("table", "likelihood")]  # no file to find


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    samplers = "{ddim-50: null, ddpm: null, ddim-5: {name: ddim, steps: 5}}"
    fit(folder / "good", f"score={{every: 8, count: 64, samplers: {samplers}}}")
    return folder / "good"


@pytest.fixture
def damaged(good, tmp_path):
    """Damage records of a copy of the run."""

    def damage(how, *names):
        run = tmp_path / "bad"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(good, run)
        for name in names:
            if (run / name).is_dir():
                shutil.rmtree(run / name)
            (run / name).unlink(missing_ok=True)
            (run / name).parent.mkdir(parents=True, exist_ok=True)
            DAMAGE[how](run / name)
        return run

    return damage


@pytest.mark.parametrize("how", DAMAGE)
def test_reading_goes_without_a_damaged_record(damaged, how, caplog):
    records.warn_once.cache_clear()
    for record in RECORDS:
        run = damaged(how, record)
        reader = read_runs([run])[0]
        for name in ("environment", "status", "metrics", "grids", "scores", "likelihoods"):
            getattr(reader, name)
        silent = record.startswith(("samples", "status")) or record == "scores" or (record, how) in SILENT
        assert silent or str(run / record) in caplog.text, record
        caplog.clear()


@pytest.mark.slow
@pytest.mark.parametrize("how", DAMAGE)
def test_reports_go_without_damaged_records(good, damaged, tmp_path, monkeypatch, capsys, how):
    run = damaged(how, *(record for record in RECORDS if record not in ("samples", "scores")))
    for command in (["compare"], ["report", "--out", str(tmp_path / "r.html")]):
        monkeypatch.setattr(sys, "argv", ["diffexp", *command, str(good), str(run)])
        main()
    assert "good" in capsys.readouterr().out
    assert "<html" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize("how", DAMAGE)
def test_what_needs_the_environment_names_it(damaged, how):
    run = damaged(how, "environment.json")
    with pytest.raises(UserError, match=r"environment\.json: .* Restore it, or start a new run\."):
        Run(run).read_environment()


def test_other_records_stay(good, damaged):
    reader = read_runs([damaged("a list", "scores/step-00000008.json")])[0]
    assert reader.scores == []
    assert reader.metrics == read_runs([good])[0].metrics
    assert reader.status["state"] == "finished"


def test_rows_with_absurd_values_are_skipped(good, damaged):
    run = damaged("empty", "table.json")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": -5, "train/loss": 1}\n{"step": 8, "train/loss": 1' + "0" * 400 + "}\n")
    assert read_runs([run])[0].metrics == read_runs([good])[0].metrics


def test_status_keeps_values_of_the_right_type(tmp_path):
    (tmp_path / "status.json").write_text(json.dumps({"state": 5, "step": True, "steps": 8, "seconds": "a", "pid": 7}))
    assert Run(tmp_path).read_status() == {"steps": 8, "pid": 7}
    assert Run(tmp_path).seconds() == 0


@pytest.mark.parametrize("how", ["a folder", "a pipe", "a device", "a loop"])
def test_a_resumed_run_sets_aside_what_is_no_file(damaged, how):
    run = damaged(how, "metrics.csv")
    rows = kept_rows(run / "metrics.jsonl", 8, None)
    assert rows
    assert not os.path.lexists(run / "metrics.csv")
    run = damaged(how, "metrics.jsonl")
    assert kept_rows(run / "metrics.jsonl", 8, None) == rows
    assert not (run / "metrics.jsonl").is_dir()
