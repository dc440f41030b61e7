"""What becomes of a trial, told by processes that behave as the test says; real trainings are in tests/integration."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext

import pytest

from diffexp.config.schemas.engines import LocalEngineConfig
from diffexp.errors import UserError
from diffexp.sweeps import runner as trying
from diffexp.sweeps.engines.base import cancel
from diffexp.sweeps.engines.local import LocalEngine, LocalRun, slots
from diffexp.sweeps.engines.slurm_environment import without_slurm
from diffexp.sweeps.extend import Growth, extend
from diffexp.sweeps.plan import Sweep, make_plan
from diffexp.sweeps.results import rows
from diffexp.sweeps.runner import FRUITLESS_LIMIT, Stop, try_trial
from diffexp.sweeps.spec.file import parse_sweep
from diffexp.sweeps.state import TrialState, locked, read_state, retry, write_state
from diffexp.system.locks import LOCK_NAME

# Begins its run directory, and logs one value.
BEGIN = """
import json, os, pathlib, signal, sys, time
run = pathlib.Path(sys.argv[1]); run.mkdir(parents=True, exist_ok=True)
def at(step, steps=10): (run / "status.json").write_text(json.dumps({"state": "running", "step": step, "steps": steps}))
def log(value):
    with (run / "metrics.jsonl").open("a") as file: file.write(json.dumps({"step": 1, "train/loss": value}) + "\\n")
seed = int(run.name.rpartition("=")[2])
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Makes a sweep whose trials run a Python text."""
    monkeypatch.chdir(tmp_path)

    def make(code, count=1, **more):
        content = {
            "method": "grid",
            "command": ["diffexp", "train", "digits", "--trial", "s", "${args_json}"],
            "metric": {"name": "train/loss"},
            "parameters": {"seed": {"values": list(range(count))}},
            **more,
        }
        monkeypatch.setattr(
            trying, "command_of", lambda sweep, planned: [sys.executable, "-c", BEGIN + code, str(planned.run.path)]
        )
        return make_plan(parse_sweep(content, "s.yaml"), 0, tmp_path / "sweep")

    return make


def attempt(made, stop=None):
    return try_trial(made, 0, os.environ, stop or Stop()), read_state(made.trial(0))


def test_done(sweep):
    made = sweep("at(10); log(0.5)")
    verdict, record = attempt(made)
    assert (verdict, record.state, record.tries, record.step, record.exit_code) == ("over", "done", 1, 10, 0)
    assert attempt(made)[1].tries == 1  # what is done is not done again


def test_a_mistake_is_not_tried_again(sweep):
    verdict, record = attempt(sweep("sys.exit(2)"))
    assert (verdict, record.state, record.exit_code) == ("over", "failed", 2)


def test_crashes_without_progress_are_limited(sweep):
    made = sweep("at(4); os.kill(os.getpid(), signal.SIGKILL)")
    verdicts = [attempt(made)[0] for _ in range(4)]
    assert verdicts == ["again", "again", "again", "over"]  # the first one got to step 4
    assert read_state(made.trial(0)).state == "failed"
    assert retry(made) == [0]
    assert [attempt(made)[0] for _ in range(3)] == ["again", "again", "over"]


@pytest.mark.slow
def test_crashes_with_progress_are_not(sweep):
    made = sweep("""
before = json.loads((run / "status.json").read_text())["step"] if (run / "status.json").exists() else 0
at(before + 1)
if before < 8: os.kill(os.getpid(), signal.SIGKILL)
""")
    verdicts = [attempt(made)[0] for _ in range(9)]
    assert verdicts == ["again"] * 8 + ["over"]
    assert read_state(made.trial(0)).state == "done"


@pytest.mark.parametrize("then", ["at(10)", "sys.exit(1)"], ids=["succeeds", "crashes"])
def test_a_death_of_the_supervisor_is_no_crash_of_the_trial(sweep, then):
    made = sweep(f"""
(run / "pid").write_text(str(os.getpid()))
if (run / "power").exists(): time.sleep(60)
{then}
""")
    run = made.trial(0).run.path
    run.mkdir(parents=True)
    (run / "power").touch()
    for _ in range(FRUITLESS_LIMIT):  # power cuts during the start, which kill both
        supervisor = multiprocessing.get_context("fork").Process(target=attempt, args=(made,))
        supervisor.start()
        while not (run / "pid").is_file() or not (pid := (run / "pid").read_text()):
            time.sleep(0.02)
        supervisor.kill()
        os.kill(int(pid), signal.SIGKILL)
        supervisor.join()
        (run / "pid").unlink()
        assert read_state(made.trial(0)).state == "lost"
    (run / "power").unlink()
    verdicts = [attempt(made)[0] for _ in range(3)]
    assert verdicts == (["over"] * 3 if then == "at(10)" else ["again", "again", "over"])
    record = read_state(made.trial(0))
    assert (record.state, record.tries) == (("done", 4) if then == "at(10)" else ("failed", 6))


def test_asked_to_stop_it_is_told_until_it_listens(sweep, monkeypatch):
    monkeypatch.setattr(trying, "_INSIST", 0.2)
    made = sweep("""
signal.signal(signal.SIGTERM, signal.SIG_IGN)
at(1); time.sleep(0.7)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + 15))
while True: time.sleep(0.05)
""")
    stop = Stop()
    threading.Timer(0.3, lambda: setattr(stop, "asked", True)).start()
    verdict, record = attempt(made, stop)
    assert (verdict, record.state, record.exit_code, record.fruitless) == ("again", "interrupted", 143, 0)


def test_cancelled_it_does_not_begin_again(sweep):
    made = sweep("at(1); time.sleep(60)")
    (made.path / trying.CANCELLED).touch()
    stop = Stop()
    threading.Timer(0.3, lambda: setattr(stop, "asked", True)).start()
    verdict, record = attempt(made, stop)
    assert (verdict, record.state) == ("over", "cancelled")


@pytest.mark.slow
def test_a_trial_is_run_by_one_process_at_a_time(sweep):
    made = sweep("time.sleep(1); at(10)")  # not over before it is halted
    with locked(made.trial(0)) as lock:
        assert lock is not None
        assert attempt(made)[0] == "taken"
    assert attempt(made)[0] == "over"


@pytest.mark.slow
def test_the_lock_outlives_a_killed_supervisor(sweep):
    made = sweep("time.sleep(1); at(10)")  # not over before it is halted
    with locked(made.trial(0)) as lock:
        child = trying.start(made, made.trial(0), os.environ, lock)
        os.kill(child.pid, signal.SIGSTOP)
    try:
        assert attempt(made)[0] == "taken"
    finally:
        os.kill(child.pid, signal.SIGCONT)
    child.wait(10)
    assert attempt(made)[0] == "over"


@pytest.mark.slow
def test_poor_trials_are_ended_early(sweep, monkeypatch):
    monkeypatch.setattr(trying, "_LOOK", 0.05)
    made = sweep(
        """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + 15))
for step in range(1, 4): log(seed + 1 / step); at(step, 3)
while seed and not time.sleep(0.05): pass
""",
        count=3,
        early_terminate={"type": "hyperband", "min_iter": 1, "eta": 3},
    )
    assert LocalRun(made, [dict(os.environ)]).run()
    assert [(row.index, row.record.state) for row in rows(made)] == [(0, "done"), (1, "stopped"), (2, "stopped")]


def test_a_target_ends_the_sweep(sweep):
    made = sweep("at(10); log(seed)", count=5, metric={"name": "train/loss", "target": 2.0, "goal": "maximize"})
    local = LocalRun(made, [dict(os.environ)])
    assert not local.run()
    assert [record.state for record in local.records()] == ["done"] * 3 + ["pending"] * 2


@pytest.mark.slow
def test_two_sweeps_of_one_directory_share_its_trials(sweep):
    made = sweep("at(10); log(seed); time.sleep(0.1)", count=8)
    both = [LocalRun(made, [dict(os.environ)]) for _ in range(2)]
    other = threading.Thread(target=lambda: [both[1]._work(dict(os.environ))])
    other.start()
    assert both[0].run()
    other.join(20)
    assert [record.tries for record in both[0].records()] == [1] * 8


def test_an_error_in_a_worker_ends_the_sweep_with_it(sweep, monkeypatch):
    made = sweep("at(10)", count=2)
    monkeypatch.setattr(trying, "command_of", lambda *_: (_ for _ in ()).throw(UserError("no disk")))
    started = time.monotonic()
    with pytest.raises(UserError, match="no disk"):
        LocalRun(made, [dict(os.environ)]).run()
    assert time.monotonic() - started < 10


# --- GPUs, threads and Slurm's variables ---------------------------------------------------------


def test_devices_are_shared_out_in_groups():
    given = [each["CUDA_VISIBLE_DEVICES"] for each in slots(None, ["0", "1", "2", "3", "4"], each=2)]
    assert given == ["0,1", "2,3"]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in slots(1, ["4", "7"], each=1)] == ["4"]


def test_cores_are_shared_out(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert [each["OMP_NUM_THREADS"] for each in slots(3, [], each=1)] == ["2"] * 3
    assert slots(16, [], each=1)[0]["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert slots(3, [], each=1)[0]["OMP_NUM_THREADS"] == "5"


def test_a_trial_in_an_allocation_is_no_task_of_slurms():
    given = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "7", "PMI_RANK": "1", "PATH": "/bin"}
    assert without_slurm(given) == {"SLURM_JOB_ID": "7", "PATH": "/bin"}


def test_the_plan_is_json_that_anybody_reads(sweep):
    made = sweep("at(10)", count=2)
    plan = json.loads((made.path / "plan.json").read_text())
    assert [trial["parameters"] for trial in plan["trials"]] == [{"seed": 0}, {"seed": 1}]
    assert [trial["run_id"] for trial in plan["trials"]] == [made.trial(0).run_id, made.trial(1).run_id]


# --- what a reviewer broke -----------------------------------------------------------------------


def test_a_config_that_has_changed_since_it_was_planned_is_refused(sweep, tmp_path):
    (tmp_path / "mine.yaml").write_text("base: [digits]\noptim: {lr: 0.001}\n")
    made = sweep("at(10)", count=2, command=["diffexp", "train", "mine.yaml", "--trial", "s", "${args_json}"])
    made.check_unchanged([0, 1])
    (tmp_path / "mine.yaml").write_text("base: [digits]\noptim: {lr: 0.5}\n")
    with pytest.raises(UserError, match=r"trial 0 \(seed=0\): expected the planned config, got another"):
        LocalRun(made, [dict(os.environ)])


def test_half_written_files_are_passed_over(sweep):
    made = sweep("at(10); log(0.5)", count=2)
    LocalRun(made, [dict(os.environ)]).run()
    made.trial(1).state_file.write_text("")
    assert read_state(made.trial(1)).state == "lost"
    metrics = made.trial(0).run.metrics
    metrics.write_bytes(b'\0\0\n{"step": 2, "train/loss": 0.25}\n{"st')
    assert rows(made)[0].value == 0.25


def test_cancelling_stops_a_training_whose_sweep_was_killed(sweep):
    made = sweep("""
from diffexp.system.locks import locked
with locked(run, "run_dir"):
    at(1)
    time.sleep(60)
""")
    with locked(made.trial(0)) as lock:
        child = trying.start(made, made.trial(0), os.environ, lock)
        while not made.trial(0).run.status.is_file():
            time.sleep(0.05)
    write_state(made.trial(0), TrialState("running", tries=1, host=os.uname().nodename))
    cancel(made)
    assert child.wait(10) == -signal.SIGTERM
    assert (made.path / trying.CANCELLED).exists()


@pytest.mark.parametrize("runs", [False, True], ids=["lost", "starting again"])
def test_cancelling_spares_a_process_that_got_the_pid_of_a_dead_training(sweep, runs):
    made = sweep("at(1)")
    run = made.trial(0).run
    victim = subprocess.Popen(["sleep", "60"])
    run.path.mkdir(parents=True)
    holder = {"host": os.uname().nodename, "pid": victim.pid, "slurm_job": None, "since": "2026-01-01T00:00:00+00:00"}
    (run.path / LOCK_NAME).write_text(json.dumps(holder))
    run.status.write_text(json.dumps({"state": "running", "step": 5, "steps": 10, "pid": victim.pid}))
    write_state(made.trial(0), TrialState("running", tries=1, host=os.uname().nodename))
    with locked(made.trial(0)) if runs else nullcontext():
        cancel(made)
    with pytest.raises(subprocess.TimeoutExpired):
        victim.wait(0.5)
    victim.kill()
    victim.wait()


def test_a_run_includes_the_trials_that_an_extension_adds_meanwhile(sweep, tmp_path):
    made = sweep("at(10); log(0.5)\nwhile not pathlib.Path('go').exists(): time.sleep(0.05)", count=2)

    def extend_then_go():
        extend(made, Growth(seeds=4))
        (tmp_path / "go").touch()

    extending = threading.Thread(target=extend_then_go)
    extending.start()
    LocalEngine(LocalEngineConfig(workers=2)).submit(made)
    extending.join()
    assert [read_state(trial).state for trial in Sweep(made.path).trials()] == ["done"] * 4
