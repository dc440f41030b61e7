"""W&B's limits, against its own validation, and where a run's records go."""

import logging

import pytest
import wandb
import yaml

from diffexp.config.check import check_experiment
from diffexp.config.load import load_experiment
from diffexp.config.schemas.common import WandbConfig, project_problem, wandb_tag
from diffexp.config.trial import Trial
from diffexp.errors import UserError
from diffexp.loggers.build import build_loggers, finish_loggers
from diffexp.runs.directory import Run
from diffexp.sweeps.plan import make_plan
from diffexp.sweeps.spec.file import parse_sweep

PROJECTS = ["diffexp", "a/b", "a\\b", "a#b", "a?b", "a%b", "a:b", "a b", "a.b", "ä", "a" * 128, "a" * 129]
TAGS = ["a", "a" * 64, "a" * 65, "ä" * 64, "ä" * 65, "a/b:c", ""]


def accepted(**settings):
    """Whether W&B's client accepts settings."""
    try:
        wandb.Settings(**settings)
    except (ValueError, wandb.UsageError):
        return False
    return True


@pytest.mark.parametrize("project", PROJECTS, ids=lambda text: text[:5])
def test_a_project_is_refused_exactly_if_wandb_refuses_it(project):
    assert (project_problem(project) is None) == accepted(project=project)


@pytest.mark.parametrize("tag", TAGS, ids=lambda text: f"{text[:5]}{len(text)}")
def test_a_tag_is_refused_exactly_if_wandb_refuses_it(tag):
    assert (not list(WandbConfig(tags=[tag]).limits())) == accepted(run_tags=[tag])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["wandb.project=team/images"], "wandb.project: expected a W&B project .* without .*, got 'team/images'"),
        (["wandb.tags=['']"], "wandb.tags: expected 1 to 64 characters, as W&B requires, got 0"),
        ([f"wandb.tags=[{'a' * 65}]"], "wandb.tags: expected 1 to 64 characters, as W&B requires, got 65"),
    ],
)
def test_a_config_is_checked_for_these_limits_if_it_logs_to_wandb(overrides, message):
    with pytest.raises(UserError, match=message):
        check_experiment(load_experiment("digits", overrides))
    check_experiment(load_experiment("digits", [*overrides, "loggers=[csv]"]))


def test_the_tag_of_a_long_sweep_name_is_shortened_and_distinct():
    names = [f"{'long_name_' * 8}{letter}" for letter in "ab"]
    tags = [load_experiment("digits", trial=Trial(name, {"seed": 0})).wandb.tags[0] for name in names]
    assert [len(tag) for tag in tags] == [64, 64]
    assert tags[0] != tags[1]
    assert all(accepted(run_tags=[tag]) for tag in tags)
    assert tags == [wandb_tag(name) for name in names]
    assert wandb_tag("a" * 64) == "a" * 64


@pytest.mark.parametrize(
    ("config", "variable", "file", "project"),
    [
        (None, None, None, "diffexp"),
        (None, None, "of_file", "of_file"),
        (None, "of_variable", "of_file", "of_variable"),
        ("of_config", "of_variable", "of_file", "of_config"),
    ],
)
def test_a_planned_sweep_names_the_project_of_its_trials(tmp_path, monkeypatch, config, variable, file, project):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    if variable is not None:
        monkeypatch.setenv("WANDB_PROJECT", variable)
    words = ["diffexp", "train", "digits", *([f"wandb.project={config}"] if config else [])]
    content = {"method": "grid", "command": [*words, "--trial", "s", "${args_json}"], "project": file}
    content = {key: value for key, value in content.items() if value is not None}
    made = make_plan(parse_sweep({**content, "parameters": {"seed": {"values": [0]}}}, "s.yaml"), 0, tmp_path / "s")
    assert yaml.safe_load((made.path / "sweep.yaml").read_text())["project"] == project


def test_a_run_that_wandb_refuses_says_so_at_its_end(tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = Run(tmp_path)
    with caplog.at_level(logging.WARNING):
        loggers = build_loggers(["wandb"], run, 0, WandbConfig(project="team/images"), {})
    assert "the logger wandb cannot be started: " in caplog.text
    loggers[1].log_metrics({"a": 1.0}, step=1)
    finish_loggers(loggers)
    err = capsys.readouterr().err
    assert "wandb: not recorded: UsageError: Invalid project name 'team/images'" in err
    assert f"the metrics are in {run.metrics}" in err
