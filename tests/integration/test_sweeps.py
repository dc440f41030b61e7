"""Whole sweeps on this machine: real trainings as trials."""

import contextlib
import csv
import io
import json
import os
import random
import signal
import time
from collections import Counter

import pytest
import yaml

from diffexp.sweeps.runner import FRUITLESS_LIMIT
from tests.helpers.small import SMALL, diffexp, metrics, start
from tests.integration.test_training import assert_same, state

pytestmark = pytest.mark.slow

QUICK = [*SMALL, "sample_grid=null", "training.max_steps=6"]


def sweep_file(folder, parameters, *overrides, name="s", fixed=QUICK, **more):
    content = {
        "method": "grid",
        "command": ["diffexp", "train", "digits", *fixed, *overrides, "--trial", name, "${args_json}"],
        "metric": {"name": "train/loss"},
        "parameters": parameters,
        **more,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return f"{name}.yaml"


def sweep(command, *arguments, cwd, expect=0):
    return diffexp("sweep", command, *arguments, cwd=cwd, expect=expect, OMP_NUM_THREADS="1")


def records(path):
    return [json.loads(file.read_text()) for file in sorted((path / "records").glob("*.json"))]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep of four trials, one of which diverges."""
    folder = tmp_path_factory.mktemp("finished")
    parameters = {
        "seed": {"values": [0, 1]},
        "optim": {"parameters": {"lr": {"values": [1e-3, 1e30]}}},
        "training": {"parameters": {"gradient_clip_val": {"value": None}}},
    }
    file = sweep_file(folder, parameters, "optim.warmup_steps=0", "checkpoint.every=2")
    done = sweep("run", file, "--workers", "2", cwd=folder, expect=1)
    return folder, done


def test_results_status_and_best(finished):
    folder, done = finished
    assert "0001 lr=1e+30,seed=0,gradient_clip_val=null: failed" in done.stderr
    assert "diffexp sweep retry runs/s" in done.stderr
    rows = list(csv.DictReader(io.StringIO(sweep("results", "s.yaml", "--format", "csv", cwd=folder).stdout)))
    assert [row["state"] for row in rows] == ["done", "done", "failed", "failed"]
    good = [row for row in rows if row["state"] == "done"]
    losses = [metrics(folder / row["run"])[-1]["train/loss"] for row in good]
    assert [float(row["train/loss"]) for row in good] == losses
    assert {row["optim.lr"] for row in good} == {"0.001"}
    assert sweep("results", "runs/s", cwd=folder).stdout in done.stdout
    assert len(json.loads(sweep("results", "runs/s", "--format", "json", cwd=folder).stdout)) == 4
    status = sweep("status", "runs/s", cwd=folder).stdout
    assert status.startswith("s: 4 trials: 2 done, 2 failed\n")
    assert "0001 lr=1e+30,seed=0,gradient_clip_val=null: failed" in status
    assert "see runs/s/logs/0001.log" in status
    assert "diverged" in (folder / "runs" / "s" / "logs" / "0001.log").read_text()


def test_the_best_config_trains_to_the_best_result(finished):
    folder, _ = finished
    text = sweep("best", "runs/s", cwd=folder).stdout
    (folder / "best.yaml").write_text(text)
    diffexp("train", "best.yaml", "run_dir=again", cwd=folder, OMP_NUM_THREADS="1")
    best = next(iter(csv.DictReader(io.StringIO(sweep("results", "s.yaml", "--format", "csv", cwd=folder).stdout))))
    assert_same(state(folder / "again"), state(folder / best["run"]))
    assert f"trial {best['index']} of runs/s" in text


def test_a_finished_sweep_is_not_run_again_and_only_failed_trials_are_retried(finished):
    folder, _ = finished
    before = [record["tries"] for record in records(folder / "runs" / "s")]
    sweep("run", "runs/s", cwd=folder, expect=1)
    assert [record["tries"] for record in records(folder / "runs" / "s")] == before
    assert "pending again: 0001, 0003" in sweep("retry", "runs/s", cwd=folder).stdout
    done = sweep("submit", "s.yaml", "--engine", "local", "workers=2", cwd=folder, expect=1)  # what `run` does
    assert sweep("results", "runs/s", cwd=folder).stdout in done.stdout
    assert "diffexp sweep retry runs/s" in done.stderr
    after = [record["tries"] for record in records(folder / "runs" / "s")]
    assert [now - then for now, then in zip(after, before, strict=True)] == [0, 1, 0, 1]


def test_a_plan_does_not_change(finished):
    folder, _ = finished
    plan = (folder / "runs" / "s" / "plan.json").read_bytes()
    refused = sweep("plan", "s.yaml", "optim.eps=1e-7", cwd=folder, expect=2).stderr
    assert "runs/s: expected the plan of this sweep, got that of another file" in refused
    sweep("plan", "s.yaml", cwd=folder)
    assert "as a plan is immutable" in sweep("run", "runs/s", "optim.eps=1e-7", cwd=folder, expect=2).stderr
    assert (folder / "runs" / "s" / "plan.json").read_bytes() == plan
    trials = json.loads(plan)["trials"]
    assert [trial["index"] for trial in trials] == [0, 1, 2, 3]
    assert len({trial["config"] for trial in trials}) == len({trial["run_id"] for trial in trials}) == 4
    # what the plan says of a trial is what its run says of itself
    run = next((folder / "runs" / "s" / "trials").glob("0000-*"))
    assert json.loads((run / "environment.json").read_text())["run_id"] == trials[0]["run_id"]
    config = yaml.safe_load((run / "config.yaml").read_text())
    about = {"group": "s", "job_type": "trial", "tags": ["s"], "name": trials[0]["name"]}
    assert config["wandb"] == {"project": None, "entity": None, **about}


# --- interrupted and killed ----------------------------------------------------------------------

LONG = [*SMALL, "training.max_steps=80", "training.log_every_n_steps=20", "checkpoint.every=20", "sample_grid=null"]
SEEDS = {"seed": {"values": [0, 1, 2, 3]}}
FEWER = {"seed": {"values": [0, 1, 2]}}  # more than two workers start at once


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    sweep("run", sweep_file(folder, SEEDS, fixed=LONG), "--workers", "2", cwd=folder)
    return [state(run) for run in sorted((folder / "runs" / "s" / "trials").iterdir())]


def started(folder, file, workers):
    return start("sweep", "run", file, "--workers", str(workers), cwd=folder, OMP_NUM_THREADS="1")


def trainings(path):
    """The process ids of the running trials, by their directories."""
    found = {}
    for status in path.glob("trials/*/status.json"):
        content = json.loads(status.read_text())
        if content["state"] == "running":
            found[status.parent.name] = content["pid"]
    return found


def assert_each_once(path, undisturbed):
    runs = sorted((path / "trials").iterdir())
    assert len(runs) == len(undisturbed)
    for run, expected in zip(runs, undisturbed, strict=True):
        assert_same(state(run), expected)
        assert [row["step"] for row in metrics(run)] == list(range(20, 81, 20))
    assert [record["state"] for record in records(path)] == ["done"] * len(undisturbed)


def test_four_workers_whose_trials_are_killed_at_random(tmp_path, undisturbed):
    process = started(tmp_path, sweep_file(tmp_path, SEEDS, fixed=LONG), 4)
    path, source, killed = tmp_path / "runs" / "s", random.Random(0), Counter()
    while process.poll() is None and killed.total() < 5:
        time.sleep(source.uniform(0.1, 0.6))
        # a trial that crashes three times without a further step has failed
        running = {run: pid for run, pid in trainings(path).items() if killed[run] < FRUITLESS_LIMIT - 1}
        if running:
            run = source.choice(sorted(running))
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(running[run], signal.SIGKILL)
                killed[run] += 1
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert killed.total() >= 3
    assert sum(record["tries"] for record in records(path)) >= len(undisturbed) + 3
    assert_each_once(path, undisturbed)


def test_the_sweep_itself_killed_leaves_no_trial_twice(tmp_path, undisturbed):
    file = sweep_file(tmp_path, FEWER, fixed=LONG)
    process = started(tmp_path, file, 2)
    path = tmp_path / "runs" / "s"
    wait_for_checkpoint(path)
    process.kill()  # its trainings go on
    process.communicate()
    assert len(trainings(path)) >= 1
    sweep("run", file, "--workers", "2", cwd=tmp_path)
    assert_each_once(path, undisturbed[:3])


def test_ctrl_c_stops_and_the_same_command_goes_on(tmp_path, undisturbed):
    file = sweep_file(tmp_path, FEWER, fixed=LONG)
    process = started(tmp_path, file, 2)
    path = tmp_path / "runs" / "s"
    wait_for_checkpoint(path)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "resume with: diffexp sweep run runs/s" in out
    assert "Traceback" not in err
    assert trainings(path) == {}
    assert any(record["state"] == "interrupted" for record in records(path))
    sweep("run", file, "--workers", "2", cwd=tmp_path)
    assert_each_once(path, undisturbed[:3])


def wait_for_checkpoint(path):
    deadline = time.monotonic() + 120
    while not list(path.glob("trials/*/checkpoints/step-*.ckpt")):
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- searches ------------------------------------------------------------------------------------


def test_bayes_ends_poor_trials_early(tmp_path):
    rates = {"optim": {"parameters": {"lr": {"distribution": "log_uniform_values", "min": 1e-6, "max": 1e-2}}}}
    file = sweep_file(
        tmp_path,
        rates,
        "training.log_every_n_steps=5",
        "training.max_steps=200",
        fixed=LONG,
        method="bayes",
        run_cap=4,
        early_terminate={"type": "hyperband", "min_iter": 2, "eta": 3},
    )
    sweep("run", file, "--workers", "2", cwd=tmp_path)
    rows = list(csv.DictReader(io.StringIO(sweep("results", file, "--format", "csv", cwd=tmp_path).stdout)))
    assert len(rows) == 4
    assert len({row["optim.lr"] for row in rows}) == 4
    assert rows[0]["state"] == "done"
    for row in rows:
        assert 1e-6 <= float(row["optim.lr"]) <= 1e-2
        assert (row["state"] == "stopped") == (int(row["step"]) < 200)
        assert len(list((tmp_path / row["run"]).glob("checkpoints/*"))) >= 1
    assert any(row["state"] == "stopped" for row in rows)


def test_samplers_of_one_checkpoint_are_compared_without_training(finished, tmp_path):
    folder, _ = finished
    run = next((folder / "runs" / "s" / "trials").glob("0000-*"))
    content = {
        "method": "grid",
        "command": [
            *(
                "diffexp",
                "evaluate",
                str(run),
                "sampler.name=ddim",
                "extractor.name=digits_v1",
                "count=40",
                "repeats=2",
            ),
            *("--trial", "samplers", "${args_json}"),
        ],
        "metric": {"name": "score/fd_digits_v1_40"},
        "parameters": {"sampler": {"parameters": {"steps": {"values": [2, 5]}, "eta": {"values": [0.0, 1.0]}}}},
    }
    (tmp_path / "samplers.yaml").write_text(yaml.safe_dump(content))
    sweep("run", "samplers.yaml", "--workers", "2", cwd=tmp_path)
    rows = json.loads(sweep("results", "samplers.yaml", "--format", "json", cwd=tmp_path).stdout)
    assert {(row["sampler.steps"], row["sampler.eta"]) for row in rows} == {(2, 0.0), (5, 0.0), (2, 1.0), (5, 1.0)}
    for row in rows:
        table = json.loads((tmp_path / row["run"] / "table.json").read_text())
        (cell,) = table["cells"]
        assert (cell["network_calls"], cell["sampler"]["eta"]) == (row["sampler.steps"], row["sampler.eta"])
        assert row["score/fd_digits_v1_40"] == cell["mean"]["fd"]
    (tmp_path / "best.yaml").write_text(sweep("best", "samplers.yaml", cwd=tmp_path).stdout)
    again = diffexp("evaluate", str(run), "--table", "best.yaml", "out=again", cwd=tmp_path, OMP_NUM_THREADS="1").stdout
    assert f"fd {rows[0]['score/fd_digits_v1_40']:.4g}" in again
    fewer = ["evaluate", str(run), "--table", "best.yaml", "repeats=1", "out=again"]
    diffexp(*fewer, cwd=tmp_path, OMP_NUM_THREADS="1")
    assert [len(cell["blocks"]) for cell in json.loads((tmp_path / "again" / "table.json").read_text())["cells"]] == [2]
