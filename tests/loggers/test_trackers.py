"""Trackers get what a run logs, asked of the real libraries."""

import json
import sqlite3
import subprocess
import sys
from dataclasses import make_dataclass

import lightning
import pytest

from diffexp.commands.locate import start_run
from diffexp.commands.train import train_run
from diffexp.config.schemas.loggers import LOGGERS, LoggerConfig
from diffexp.loggers.base import RunLogger
from tests.helpers.small import SMALL, diffexp, experiment, fit

BRIEF = ["training.max_steps=4", "training.log_every_n_steps=2", "checkpoint.every=2"]


@pytest.fixture
def trackio_projects(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    return {"TRACKIO_DIR": str(tmp_path / "trackio")}


@pytest.mark.slow
def test_trackio_has_metrics_pictures_and_config(tmp_path, trackio_projects):
    overrides = ["loggers=[trackio]", "wandb.project=small", "run_dir=run", *BRIEF]
    diffexp("train", "digits", *SMALL, *overrides, cwd=tmp_path, **trackio_projects)
    file = next((tmp_path / "trackio").glob("small*.db"))
    with sqlite3.connect(file) as database:
        rows = [(step, json.loads(text)) for step, text in database.execute("select step, metrics from metrics")]
        ((config,),) = database.execute("select config from configs").fetchall()
    losses = {step: row["train/loss"] for step, row in rows if "train/loss" in row}
    truth = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert losses == {row["step"]: row["train/loss"] for row in truth if "train/loss" in row}
    assert any("samples/ddim-5" in row for _, row in rows)
    assert list((tmp_path / "trackio").rglob("*.png"))
    assert json.loads(config)["training"]["max_steps"] == 4


@pytest.mark.slow
def test_mlflow_has_metrics_pictures_and_config_of_a_resumed_run(tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    fit(tmp_path / "run", "loggers=[mlflow]", "wandb.project=small", *BRIEF, "training.max_steps=2")
    diffexp("train", "run", "--resume", "training.max_steps=4", cwd=tmp_path)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")  # MLflow's own default
    (found,) = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    assert (found.info.run_name, found.info.status) == ("run", "FINISHED")
    assert found.data.params["model.schedule.name"] == "linear"
    logged = {each.step: each.value for each in client.get_metric_history(found.info.run_id, "train/loss")}
    truth = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert logged == {row["step"]: row["train/loss"] for row in truth if "train/loss" in row}
    assert sorted(logged) == [2, 4]
    pictures = [file.path for file in client.list_artifacts(found.info.run_id, "images")]
    assert any("ddim-5" in path for path in pictures)


@pytest.mark.slow
def test_trackio_keeps_two_runs_of_one_name_apart(tmp_path, trackio_projects, monkeypatch):
    for folder, wandb_id in (("a", "first"), ("b", "second")):
        overrides = ["loggers=[trackio]", "wandb.project=small", "wandb.name=same", f"run_dir={folder}", *BRIEF]
        extra = {**trackio_projects, "WANDB_RUN_ID": wandb_id}
        diffexp("train", "digits", *SMALL, "sample_grid=null", *overrides, cwd=tmp_path, **extra)
    file = next((tmp_path / "trackio").glob("small*.db"))
    with sqlite3.connect(file) as database:
        counts = dict(database.execute("select run_name, count(*) from metrics group by run_name"))
    assert counts == {"same-first": 2, "same-second": 2}


@pytest.mark.slow
def test_mlflow_runs_that_start_together_share_one_experiment(tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    start = (
        "import sys; from pathlib import Path; from diffexp.loggers.base import LoggedRun; "
        "from diffexp.loggers.mlflow import MLflowLogger; "
        "MLflowLogger(LoggedRun(Path(sys.argv[1]), sys.argv[1], 'run', {'seed': 0})).log_scalars({'loss': 1.0}, 1)"
    )
    processes = [subprocess.Popen([sys.executable, "-c", start, str(number)]) for number in range(4)]
    assert [process.wait(120) for process in processes] == [0] * 4
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("diffexp").experiment_id])
    assert sorted(run.data.tags["diffexp_run"] for run in found) == ["0", "1", "2", "3"]


def test_a_training_that_crashes_ends_as_failed_in_its_loggers(tmp_path):
    codes = []

    class Watching(RunLogger):
        def __init__(self, run):
            pass

        def log_scalars(self, values, step):
            pass

        def finish(self, exit_code):
            codes.append(exit_code)

    class Crash(lightning.Callback):
        def on_train_batch_end(self, *_):
            raise RuntimeError("of a callback of one's own")

    LOGGERS.register("watching", Watching)(make_dataclass("C", [("name", str, "watching")], bases=(LoggerConfig,)))
    wanted = experiment(f"run_dir={tmp_path / 'run'}", "loggers=[watching]", *BRIEF)
    try:
        with pytest.raises(RuntimeError, match="of a callback"):
            train_run(wanted, start_run(wanted), [], [Crash()])
    finally:
        del LOGGERS._schemas["watching"], LOGGERS._builders["watching"]
    assert codes == [1]


def test_a_tracker_that_fails_costs_its_records_alone(tmp_path, caplog):
    class Broken(RunLogger):
        def __init__(self, run):
            self.run = run

        def log_scalars(self, values, step):
            raise RuntimeError("no network")

    class Missing(RunLogger):
        def __init__(self, run):
            raise ImportError("no such package")

        def log_scalars(self, values, step):
            raise NotImplementedError

    for name, logger in (("broken", Broken), ("missing", Missing)):
        LOGGERS.register(name, logger)(make_dataclass(f"{name}Config", [("name", str, name)], bases=(LoggerConfig,)))
    try:
        outcome = fit(tmp_path / "run", "loggers=[broken,missing]", *BRIEF)
    finally:
        for name in ("broken", "missing"):
            del LOGGERS._schemas[name], LOGGERS._builders[name]
    assert outcome.step == 4
    told = [record.message for record in caplog.records if "logger" in record.message]
    assert told == [
        "the logger missing cannot be started: ImportError: no such package; training continues",
        "the logger broken cannot record: RuntimeError: no network; training continues",
    ]
