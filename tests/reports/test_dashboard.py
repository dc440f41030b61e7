"""What W&B's server would receive of a view, and what is read back of a run to make it again."""

import json
import re
import shutil

import pytest
from PIL import Image

from tests.helpers.small import SMALL, diffexp
from tests.helpers.wandb_server import ENTITY, PROJECT, WandbServer

pytestmark = pytest.mark.slow


@pytest.fixture
def server():
    started = WandbServer().start()
    yield started
    started.stop()


def test_the_view_shows_loss_scores_swept_keys_samples_and_configs(runs, server):
    told = diffexp("dashboard", "push", "one", "two", "--name", "mine", cwd=runs, **server.environment).stdout
    (view,) = server.views
    assert (view["entityName"], view["projectName"], view["displayName"]) == (ENTITY, PROJECT, "mine")
    assert told.startswith("http")
    assert f"{ENTITY}/{PROJECT}" in told
    sections = {each["name"]: each["panels"] for each in view["spec"]["section"]["panelBankConfig"]["sections"]}
    assert list(sections) == ["Loss", "Scores by sampler", "Swept keys", "Samples", "Configs"]
    assert sections["Loss"][0]["config"]["metrics"] == ["train/loss"]
    assert {each["config"]["xAxis"] for each in sections["Loss"]} == {"trainer/global_step"}
    logged = [json.loads(line) for line in (runs / "one" / "metrics.jsonl").read_text().splitlines()]
    shown = [metric for each in sections["Scores by sampler"] for metric in each["config"]["metrics"]]
    assert "score/ddim-5-eta0-ema/fd_digits_v1_64" in shown
    assert "score/ddpm-30-fixed_large-ema/fd_digits_v1_64" in shown
    assert all("_error" not in each and "_floor" not in each and not each.endswith("_best") for each in shown)
    assert set(shown) & set(logged[-1])
    (parallel,) = sections["Swept keys"]
    assert [each["accessor"] for each in parallel["config"]["columns"]] == [
        "config:model.value.timesteps",
        "config:optim.value.lr",
        "summary:score/fd_digits_v1_64_best",
    ]
    assert [each["config"]["mediaKeys"] for each in sections["Samples"]] == [["samples/ddim-5"], ["samples/ddpm"]]
    assert sections["Configs"][0]["viewType"] == "Run Comparer"


def test_runs_that_differ_only_in_seeds_are_grouped(runs, server, tmp_path):
    for name in ("one", "two"):
        for seed in (0, 1):
            folder = tmp_path / f"{name}-{seed}"
            shutil.copytree(runs / name, folder, ignore=shutil.ignore_patterns("checkpoints"))
            text = (folder / "config.yaml").read_text()
            (folder / "config.yaml").write_text(re.sub("^seed: .*$", f"seed: {seed}", text, flags=re.MULTILINE))
    diffexp("dashboard", "push", *sorted(each.name for each in tmp_path.iterdir()), cwd=tmp_path, **server.environment)
    section = server.views[-1]["spec"]["section"]
    (runset,) = section["runSets"]
    grouping = [(each["section"], each["name"]) for each in runset["grouping"]]
    assert grouping == [("config", "model.value.timesteps"), ("config", "optim.value.lr")]
    panels = {each["name"]: each["panels"] for each in section["panelBankConfig"]["sections"]}
    for each in panels["Loss"] + panels["Scores by sampler"]:
        assert (each["config"]["groupAgg"], each["config"]["groupArea"]) == ("mean", "stderr")
    diffexp("dashboard", "push", "one-0", "one-1", cwd=tmp_path, **server.environment)
    (runset,) = server.views[-1]["spec"]["section"]["runSets"]
    assert [each["name"] for each in runset["grouping"]] == ["data.value.name"]


def test_a_server_that_does_not_answer_is_told(runs, server):
    server.fail("gone")
    refused = diffexp("dashboard", "push", "one", cwd=runs, expect=1, **server.environment).stderr
    assert "dashboard: W&B cannot save the view" in refused


def test_a_run_in_wandb_is_reproduced_from_what_the_server_holds(tmp_path, server):
    settings = ["loggers=[csv,wandb]", "run_dir=run"]
    diffexp("train", "digits", *SMALL, *settings, cwd=tmp_path, **server.environment)
    (run_id,) = server.runs
    # grids under fixed keys at their steps, as large as those in the run's directory
    for sampler in ("ddpm", "ddim-5"):
        rows = [row for row in server.runs[run_id]["history"] if f"samples/{sampler}" in row]
        assert [row["trainer/global_step"] for row in rows] == [4, 8]
        with Image.open(tmp_path / "run" / "samples" / f"step-00000008-{sampler}.png") as picture:
            sent = rows[-1][f"samples/{sampler}"]
            assert (sent["width"], sent["height"], sent["count"]) == (*picture.size, 1)
    name = f"{ENTITY}/{PROJECT}/{run_id}"
    told = diffexp("reproduce", name, "loggers=[]", "run_dir=again", cwd=tmp_path, **server.environment).stdout
    assert "settings: the same\n" in told
    assert "metrics (4 rows): equal\n" in told
    assert told.endswith("the result is the same, bit for bit\n")
    missing = f"https://wandb.example/{ENTITY}/{PROJECT}/runs/nosuch"
    refused = diffexp("reproduce", missing, cwd=tmp_path, expect=1, **server.environment).stderr
    assert "cannot be read from W&B" in refused
