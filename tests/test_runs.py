"""Run directories."""

import pytest

from diffexp.config import load_evaluate_request, load_experiment
from diffexp.config.trials import Trial
from diffexp.errors import UserError
from diffexp.runs import grids, new_run


def test_a_start_that_was_killed_while_it_wrote_can_be_begun_again(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "environment.json").write_text("{}")
    (run / ".config.yaml.77-aaaa.tmp").write_text("nam")
    (run / ".lock").touch()
    assert new_run(load_experiment("digits", [f"run_dir={run}"])).path == run
    (run / "mine.txt").touch()
    with pytest.raises(UserError, match="exists and is not an empty folder"):
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
