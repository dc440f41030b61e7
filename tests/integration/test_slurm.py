"""Sweeps on a real Slurm of two virtual nodes: whatever happens, every trial ends once, as if nothing had."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.helpers.needs import require
from tests.helpers.slurm import (
    CLUSTER,
    LONG,
    PATIENCE,
    Cluster,
    Faulty,
    assert_each_once,
    sweep_file,
)
from tests.helpers.small import SMALL, diffexp, metrics
from tests.helpers.wandb_server import ENTITY, PROJECT, SWEEP, WandbServer
from tests.integration.test_training import assert_same, state

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    require(shutil.which("sbatch"), "`apt install slurm-wlm`")
    require(shutil.which("munge"), "`apt install munge`")
    require(os.geteuid() == 0, "root")
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([CLUSTER, "start", folder], check=True, timeout=120)
    yield Cluster(folder)
    subprocess.run([CLUSTER, "stop", folder], check=True, timeout=120)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    command = ("sweep", "run", sweep_file(folder, 0), "--plugin", "slow", "--workers", "2")
    diffexp(*command, cwd=folder, OMP_NUM_THREADS="1")
    return [state(run) for run in sorted((folder / "runs" / "faults" / "trials").iterdir())]


def test_a_sweep_completes(cluster, undisturbed, tmp_path):
    folder = tmp_path / "a b%j"  # Slurm splits at spaces, and replaces %j
    folder.mkdir()
    sweep = Faulty(cluster, folder, 0)
    script = sweep.submit("--print", "partition=main", "time=10", "mem=1G").stdout
    assert "#SBATCH --partition=main" in script
    assert not (sweep.path / "slurm").exists()
    sweep.submit("setup=echo before", "setup=module load nowhere")
    sweep.wait(lambda: not cluster.call("squeue", "--noheader").strip())
    assert "2 pending" in cluster.diffexp("sweep", "status", "faults.yaml", cwd=folder).stdout
    logs = [*(sweep.path / "logs").glob("slurm-*"), *(sweep.path / "logs").glob("000?.log")]
    assert len(logs) == 4
    for log in logs:
        assert "error: setup: exit code 127 of: module load nowhere. The job ends." in log.read_text()
    container = folder / "apptainer"
    container.write_text(f'#!/bin/sh\necho "in $3 of $IMAGES"\nshift 4\nexec {sys.executable} "$@"\n')
    container.chmod(0o755)
    setup = ("setup=IMAGES='a: b' # not YAML", f"setup=export IMAGES PATH='{folder}':$PATH")
    python = "python=apptainer exec --nv $IMAGES.sif python"
    assert "submitted job " in sweep.submit("max_parallel=2", "partition=main", *setup, python).stdout
    assert "expected no jobs of this sweep in Slurm" in sweep.submit(expect=2).stderr
    sweep.wait_until_done(0, 1)
    assert_each_once(sweep, undisturbed)
    assert [sweep.record(index)["tries"] for index in (0, 1)] == [1, 1]
    assert [log.read_text().count("in a: b.sif of a: b\n") for log in (sweep.path / "logs").glob("slurm-*")].count(
        1
    ) == 2
    assert "no trial is left to run" in sweep.submit().stdout
    environment = json.loads((sweep.run(0) / "environment.json").read_text())
    assert environment["slurm"]["SLURM_ARRAY_TASK_ID"] == "0"
    assert environment["run_id"] == json.loads((sweep.path / "plan.json").read_text())["trials"][0]["run_id"]


def test_a_node_loses_power(cluster, undisturbed, tmp_path):
    sweep = Faulty(cluster, tmp_path, 0.5)
    sweep.submit()
    sweep.wait_until_saved(0)
    node = sweep.node(0)
    cluster.power_off(node)
    try:
        sweep.wait(lambda: sweep.record(0)["tries"] > 1)
    finally:
        cluster.power_on(node)
    sweep.wait_until_done(0, 1)
    assert_each_once(sweep, undisturbed)


def test_preemption_and_a_killed_process(cluster, undisturbed, tmp_path):
    # W&B's helper process gets the signals as well
    sweep = Faulty(cluster, tmp_path, 1.5, "loggers=[csv,wandb,slow]")
    sweep.submit("partition=main", "options=['--nodelist=node1']")
    sweep.wait_until_saved(1)
    os.kill(training(sweep.run(1)), signal.SIGKILL)
    sweep.wait_until_saved(0)
    sweep.wait(lambda: sweep.record(1)["state"] == "interrupted")
    time.sleep(5)
    assert sweep.record(0)["tries"] == 1  # the last task's job id is that of the whole array
    assert sweep.record(0)["state"] == "running"
    cluster.call("srun", "--partition=urgent", "--nodelist=node1", "--exclusive", "sleep", "1")
    sweep.wait_until_done(0, 1)
    assert_each_once(sweep, undisturbed)
    assert all(sweep.record(index)["tries"] > 1 for index in (0, 1))
    ids = {file.name.rpartition("-")[2] for file in sweep.run(0).glob("wandb/offline-run-*")}
    assert ids == {json.loads((sweep.run(0) / "environment.json").read_text())["run_id"]}


def training(run):
    return json.loads((run / "status.json").read_text())["pid"]


def test_cancelled_and_submitted_again(cluster, undisturbed, tmp_path):
    sweep = Faulty(cluster, tmp_path, 0.5)
    sweep.submit("max_parallel=1")
    sweep.wait_until_saved(0)
    assert "cancelled, with jobs" in cluster.diffexp("sweep", "cancel", "runs/faults", cwd=tmp_path).stdout
    sweep.wait(lambda: sweep.record(0)["state"] == "cancelled")
    sweep.wait(lambda: not cluster.call("squeue", "--noheader").strip())
    assert "1 cancelled, 1 pending" in cluster.diffexp("sweep", "status", "faults.yaml", cwd=tmp_path).stdout
    sweep.submit()
    sweep.wait_until_done(0, 1)
    assert_each_once(sweep, undisturbed)


def test_time_limit(cluster, tmp_path):
    sweep = Faulty(cluster, tmp_path, 2.5, seeds=[0])  # longer than the 35 seconds to the signal
    sweep.submit("time=1", "grace=25")
    alone = tmp_path / "alone"
    diffexp("train", "digits", *LONG, "seed=0", f"run_dir={alone}", cwd=tmp_path, OMP_NUM_THREADS="1")
    sweep.wait_until_done(0)
    assert_same(state(sweep.run(0)), state(alone))
    assert metrics(sweep.run(0)) == metrics(alone)
    assert sweep.record(0)["tries"] > 1


def test_a_trial_on_two_devices(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFEXP_RUN_DIR", str(tmp_path / "elsewhere"))  # of a training before, in the same process
    two = ("training.devices=2", "training.accelerator=cpu")
    sweep = Faulty(cluster, tmp_path, 0.5, *two, seeds=[0])
    refused = sweep.submit("gpus=1", expect=2).stderr
    assert "gpus: expected 2, the training.devices of a trial, got 1" in refused
    sweep.submit("gpus=2")
    sweep.wait_until_saved(0)
    # one of its two processes dies: both end, and the trial goes on from its checkpoint
    os.kill(training(sweep.run(0)), signal.SIGKILL)
    sweep.wait_until_done(0)
    assert sweep.record(0)["tries"] > 1
    alone = tmp_path / "alone"
    diffexp("train", "digits", *LONG, *two, "seed=0", f"run_dir={alone}", cwd=tmp_path, OMP_NUM_THREADS="1")
    assert_same(state(sweep.run(0)), state(alone))
    environment = json.loads((sweep.run(0) / "environment.json").read_text())
    assert environment["slurm"]["SLURM_JOB_ID"]


def test_a_task_that_cannot_begin_is_not_queued_for_ever(cluster, tmp_path):
    sweep = Faulty(cluster, tmp_path, 0, seeds=[0])
    script = sweep.submit("--print").stdout
    (tmp_path / "gone.sh").write_text(script.replace(sys.executable, "/gone/python"))
    job = cluster.call("sbatch", "--parsable", "--array=0", f"{tmp_path / 'gone.sh'}").strip()
    deadline = time.monotonic() + PATIENCE
    while cluster.call("squeue", "--noheader").strip():
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert "Restarts=0" in cluster.call("scontrol", "show", "job", f"{job}_0")


def test_two_nodes_one_of_which_loses_power(cluster, tmp_path):
    two = ("training.num_nodes=2", "training.accelerator=cpu")
    sweep = Faulty(cluster, tmp_path, 0.5, *two, seeds=[0])
    (tmp_path / "slow-again").touch()
    sweep.submit("setup=export SLURM_WAIT=5")
    sweep.wait_until_saved(0)

    def step():
        return json.loads((sweep.run(0) / "status.json").read_text())["step"]

    cluster.power_off("node2")
    time.sleep(5)
    cluster.power_on("node2")  # before Slurm has noticed: srun would wait for its task for ever
    reached = step()
    sweep.wait(lambda: sweep.record(0)["tries"] == 2 and step() > reached)
    cluster.power_off("node2")
    try:
        sweep.wait(lambda: cluster.call("squeue", "--noheader", "--format=%t").strip() == "PD")
    finally:
        cluster.power_on("node2")
    (tmp_path / "slow-again").unlink()
    alone = tmp_path / "alone"  # with the same number of processes
    one = ("training.devices=2", "training.accelerator=cpu")
    diffexp("train", "digits", *LONG, *one, "seed=0", f"run_dir={alone}", cwd=tmp_path, OMP_NUM_THREADS="1")
    sweep.wait_until_done(0)
    assert_same(state(sweep.run(0)), state(alone))
    assert metrics(sweep.run(0)) == metrics(alone)


def test_trainings_that_a_user_starts(cluster, tmp_path):
    def start(allocation, devices, run, srun=""):
        train = f"{sys.executable} -m diffexp train digits {shlex.join(SMALL)} sample_grid=null"
        command = f"{srun} {train} training.devices={devices} training.accelerator=cpu run_dir={run}"
        return subprocess.Popen(
            [*allocation.split(), "bash", "-c", command],
            cwd=tmp_path,
            env={**os.environ, **cluster.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ended(process, code):
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, out + err
        return err

    # salloc calls its jobs "interactive", which Lightning takes for the absence of srun
    tasks = start("salloc --nodes=1 --ntasks=2", 2, "tasks", srun="srun --ntasks=2")
    alone = start("salloc --nodes=1 --ntasks=4", 1, "alone")
    launcher = start("salloc --nodes=1 --ntasks=2", 2, "launcher")
    fewer = start("srun --ntasks=1", 2, "fewer")
    assert "got 1. Start with srun --nodes=1 --ntasks-per-node=2" in ended(fewer, 2)
    assert not (tmp_path / "fewer").exists()
    for process, run in ((tasks, "tasks"), (alone, "alone"), (launcher, "launcher")):
        ended(process, 0)
        assert [row["step"] for row in metrics(tmp_path / run)] == [2, 4, 6, 8]
    assert metrics(tmp_path / "tasks") == metrics(tmp_path / "launcher")

    # only the first task finds the run there, but all end
    (tmp_path / "tasks" / "checkpoints").rename(tmp_path / "checkpoints")
    again = start("salloc --nodes=1 --ntasks=2", 2, "tasks", srun="srun --ntasks=2")
    spread = start("salloc --nodes=2 --ntasks=2", 2, "spread", srun="srun --ntasks=2")
    without = start("salloc --nodes=2 --ntasks=2", "1 training.num_nodes=2", "without")
    assert "expected a new or empty directory, got tasks, which holds a run" in ended(again, 2)
    assert "got 1(x2). Start with srun --nodes=1 --ntasks-per-node=2" in ended(spread, 2)
    assert "Start with srun --nodes=2 --ntasks-per-node=1, or on each node" in ended(without, 2)


def test_agents_of_a_sweep_on_the_server(cluster, tmp_path):
    fixed = [*SMALL, "training.max_steps=4", "sample_grid=null", "loggers=[csv,wandb]"]
    content = {
        "method": "grid",
        "command": ["diffexp", "train", "digits", *fixed, "--trial", "served", "${args_json}"],
        "metric": {"name": "train/loss"},
        "parameters": {"seed": {"values": [0, 1, 2]}},
    }
    (tmp_path / "served.yaml").write_text(yaml.safe_dump(content))
    server = WandbServer().start()
    path = f"{Path(sys.executable).parent}:{cluster.environment['PATH']}"
    environment = {**cluster.environment, **server.environment, "PATH": path}
    try:
        register = [sys.executable, "-m", "wandb", "sweep", "served.yaml"]
        subprocess.run(
            register, cwd=tmp_path, env={**os.environ, **environment}, check=True, capture_output=True, timeout=120
        )
        name = f"{ENTITY}/{PROJECT}/{SWEEP}"
        told = diffexp("sweep", "submit", name, "--slurm", "--agents", "2", cwd=tmp_path, **environment).stdout
        assert "2 agents" in told
        deadline = time.monotonic() + PATIENCE
        while cluster.call("squeue", "--noheader").strip():
            assert time.monotonic() < deadline
            time.sleep(0.5)
    finally:
        server.stop()
    assert sorted(cell["seed"] for cell in server.handed_out.values()) == [0, 1, 2]
    for run in server.runs.values():
        assert run["exit"] == 0
        assert [row["trainer/global_step"] for row in run["history"] if "train/loss" in row] == [2, 4]


def test_a_race_trains_its_rounds_one_after_the_other(cluster, tmp_path):
    sweep = Faulty(cluster, tmp_path, 0)
    content = yaml.safe_load((tmp_path / "faults.yaml").read_text())
    rates = {"optim": {"parameters": {"lr": {"values": [1e-3, 1.1e-3]}}}}
    (tmp_path / "faults.yaml").write_text(
        yaml.safe_dump({**content, "parameters": rates, "method": "race", "run_cap": 7})
    )
    assert sweep.submit().stdout.count(",") >= 1  # a job for the first round, and one for each later one
    sweep.wait_until_done(*range(6))
    assert [run.name.partition("seed=")[2] for run in sorted((sweep.path / "trials").iterdir())] == [*"001122"]
    assert len(list((sweep.path / "looks").iterdir())) == 2
    status = cluster.diffexp("sweep", "status", "faults.yaml", cwd=tmp_path).stdout
    assert status.startswith("faults: 7 trials: 6 done, 1 not chosen")
    assert "no trial is left to run" in sweep.submit().stdout
