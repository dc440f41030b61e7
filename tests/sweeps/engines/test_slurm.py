"""What can be said of job scripts and arrays without a Slurm."""

import os
import subprocess
import sys

import pytest

from diffexp.errors import EnvironmentFailure, UserError
from diffexp.sweeps.engines.base import build_engine
from diffexp.sweeps.engines.slurm import batches, slurm, submit_agents
from diffexp.sweeps.plan import make_plan
from diffexp.sweeps.spec.file import parse_sweep
from diffexp.sweeps.state import TrialState, write_state


def test_arrays_are_split_where_slurm_ends_them():
    (only,) = batches([0, 1, 2, 3, 7, 9, 10], max_parallel=2)
    assert (only.tasks, only.offset, only.after) == ("0-3,7,9-10%2", 0, None)
    first, second = batches([*range(5), 8, 9], None, largest=5)
    assert [(first.tasks, first.offset), (second.tasks, second.offset)] == [("0-4", 0), ("3-4", 5)]
    assert batches([], None) == []


@pytest.mark.parametrize("largest", [0, 1, 2, 3, 7, 100])
@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_no_more_trials_run_at_the_same_time_than_max_parallel(most, largest):
    """Slurm in the worst case: every task that it may start runs, and the batches end in any order."""
    made = batches(range(12), most, largest)
    running = {}
    for number, batch in enumerate(made):
        if batch.after is not None:  # the one that it waits for has ended
            del running[number - batch.after]
        size, limit = (1, 1) if batch.tasks is None else (12, int(batch.tasks.partition("%")[2]))
        running[number] = min(size, limit)
        assert sum(running.values()) <= most
    assert len(made) == (12 if largest < 2 else -(-12 // largest))


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("5", 300), ("5:30", 330), ("1:00:00", 3600), ("1-0", 86_400), ("1-1:30", 91_800), ("2-00:00:10", 172_810)],
)
def test_time_limits_as_slurm_writes_them(time, seconds):
    build_engine("slurm", [f"time={time}", f"grace={(seconds - 1) // 2}"])
    with pytest.raises(UserError, match=f"less than half of the time limit of {seconds} s"):
        build_engine("slurm", [f"time={time}", f"grace={(seconds + 1) // 2}"])


@pytest.mark.parametrize("time", ["UNLIMITED", "infinite", "0"])
def test_no_time_limit(time):
    assert build_engine("slurm", [f"time={time}"])[0].config.time == time


@pytest.mark.parametrize("time", ["4h", "90m", "abc", "1:2:3:4", "1-", "-1", "1.5"])
def test_times_that_slurm_does_not_know(time):
    with pytest.raises(UserError, match=f"time: expected MINUTES, .* such as 90, 4:00:00 or 1-12, got '{time}'"):
        build_engine("slurm", [f"time={time}"])


TASK_7 = 'case "$*" in *--format=%A*) echo 7 ;; *) echo 8 ;; esac'  # %F would be that of the whole array
UNREACHABLE = "echo 'error: Unable to contact slurm controller (connect failure)' >&2\nexit 1"


def write_command(path, script):
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def planned(folder, monkeypatch):
    """Plan three trials; commands of Slurm are those in the folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    content = {
        "method": "grid",
        "command": ["diffexp", "train", "digits", "--trial", "s", "${args_json}"],
        "parameters": {"seed": {"values": [0, 1, 2]}},
    }
    return make_plan(parse_sweep(content, "s.yaml"), 0, folder / "sweep")


def test_a_cluster_that_cannot_be_reached_is_a_failure_of_the_machine(tmp_path):
    write_command(tmp_path / "sbatch", UNREACHABLE)
    with pytest.raises(EnvironmentFailure, match=r"connect failure\)\. Run the command on a login node"):
        slurm([str(tmp_path / "sbatch")])
    write_command(tmp_path / "sbatch", "echo 'sbatch: error: invalid partition specified: gpus' >&2\nexit 1")
    with pytest.raises(UserError, match="invalid partition specified: gpus"):
        slurm([str(tmp_path / "sbatch")])


@pytest.mark.parametrize(("squeue", "gone"), [(TASK_7, {1}), ("true", {0, 1}), (UNREACHABLE, set()), ("exit 1", set())])
def test_a_trial_is_lost_only_if_slurm_says_that_its_job_has_ended(squeue, gone, tmp_path, monkeypatch):
    made = planned(tmp_path, monkeypatch)
    for index, job in ((0, "7"), (1, "8")):
        write_state(made.trial(index), TrialState("running", job=job, host="another"))
    write_command(tmp_path / "squeue", squeue)
    assert build_engine("slurm", [])[0].gone(made) == gone


BANNER = "echo 'auks: credential of 7 added'; echo; "


def write_slurm(folder, job, largest=1001):
    """Write commands of Slurm that print a site's lines first and note their arguments; `job` is sbatch's."""
    noted = f'echo "$(basename "$0") $*" >> {folder}/calls; {BANNER}'
    answers = {
        "sbatch": job,
        "squeue": "echo 41; echo 7",
        "scancel": "true",
        "scontrol": f"echo MaxArraySize = {largest}",
    }
    for name, answer in answers.items():
        write_command(folder / name, f"{noted}{answer}")


def calls(folder, name):
    return [line for line in (folder / "calls").read_text().splitlines() if line.startswith(name)]


@pytest.mark.parametrize(("job", "options"), [("41", ""), ("41;west", "--clusters=west ")])
def test_a_job_is_the_last_line_that_sbatch_prints(job, options, tmp_path, monkeypatch):
    made = planned(tmp_path, monkeypatch)
    write_slurm(tmp_path, f"echo '{job}'")
    engine, _ = build_engine("slurm", [])
    assert engine.submit(made) == [job]
    with pytest.raises(UserError, match=f"expected no jobs of this sweep in Slurm, got {job}"):
        engine.submit(made)
    assert engine.cancel(made) == [job]
    assert calls(tmp_path, "scancel") == [f"scancel {options}41"]
    assert all(call.startswith(f"squeue {options}--noheader") for call in calls(tmp_path, "squeue"))


@pytest.mark.parametrize("answer", ["true", "echo 'Submitted batch job 41'", "echo 41; echo bye", "echo '41;a b'"])
def test_an_answer_without_a_job_may_have_queued_one(answer, tmp_path, monkeypatch):
    made = planned(tmp_path, monkeypatch)
    write_slurm(tmp_path, answer)
    with pytest.raises(
        EnvironmentFailure, match=r"sbatch --parsable .* got 'auks: .* may be queued: look for it with squeue"
    ):
        build_engine("slurm", [])[0].submit(made)


def test_agents_are_submitted_like_trials(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    request = build_engine("slurm", ["max_parallel=2", "python=python", "setup=. venv/bin/activate"])[0].config
    write_slurm(tmp_path, "echo 41")
    assert submit_agents("a/b/c", 3, request, tmp_path / "agents") == ["41"]
    (call,) = calls(tmp_path, "sbatch")
    assert "--array=0-2%2 " in call
    script = (tmp_path / "agents" / "agents.sh").read_text()
    assert "\n. venv/bin/activate\ncode=$?" in script
    assert "exec python -P -m wandb agent" in script


def test_a_cluster_without_arrays_gets_single_jobs(tmp_path, monkeypatch):
    made = planned(tmp_path, monkeypatch)
    write_slurm(tmp_path, f"wc -l < {tmp_path}/submitted; echo >> {tmp_path}/submitted", largest=0)
    (tmp_path / "submitted").write_text("\n")
    assert build_engine("slurm", ["max_parallel=2"])[0].submit(made) == ["1", "2", "3"]
    submitted = calls(tmp_path, "sbatch")
    assert [line.split()[-1] for line in submitted] == ["0", "1", "2"]
    assert ["--dependency=afterany:1" in line for line in submitted] == [False, False, True]
    assert not any("--array" in line for line in submitted)


# --- the job script, run by bash; srun runs one task, and python is a command that prints its arguments -------------


def run_script(folder, monkeypatch, *overrides, srun='shift; exec "$@"', task="1"):
    made = planned(folder, monkeypatch)
    write_command(folder / "srun", srun)
    write_command(folder / "interpreter", 'echo "by $0: $*"; echo "X=$X"')
    write_command(folder / "scontrol", f"echo $* >> {folder}/calls; echo JobState=RUNNING")
    made.logs.mkdir(exist_ok=True)
    script = build_engine("slurm", overrides)[0].script(made)
    variables = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_JOB_ID": "9"} if task else {"SLURM_JOB_ID": "9"}
    return subprocess.run(
        ["bash", "-s", "1"], input=script, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("lines", "x"),
    [
        (["X=a"], "a"),
        (["X=a", "X=$X.b # as ${HOME}: b"], "a.b"),
        (["X=a\nX=$X.b"], "a.b"),
        (["[ -f /etc/passwd ] && X='a: b'"], "a: b"),
        (["if true; then\nX=a\nfi"], "a"),
        (["if true; then", "X=a", "fi"], "a"),
        (["X=$(cat <<E", "a", "E", ")"], "a"),
        (["X=a \\\nY=b"], "a"),
        (["set -eu", "X=a"], "a"),
        (["", "# nothing", "X='a  $b'"], "a  $b"),
    ],
)
def test_setup_is_lines_of_the_shell(lines, x, tmp_path, monkeypatch):
    done = run_script(
        tmp_path, monkeypatch, "python=interpreter", "setup=export X=", *(f"setup={each}" for each in lines)
    )
    assert done.returncode == 0, done.stderr
    assert f"X={x}\n" in done.stdout


@pytest.mark.parametrize(
    ("lines", "failed"),
    [
        (["false"], "exit code 1 of: false"),
        (["true", "(exit 7)", "true"], "exit code 7 of: (exit 7)"),
        (["(exit 7)\ntrue"], "exit code 7 of: (exit 7)"),
        (["false && true"], "exit code 1 of: false && true"),
        (["source nowhere/bin/activate"], "exit code 1 of: source nowhere/bin/activate"),
        (["module load 'no such'"], "exit code 127 of: module load 'no such'"),
    ],
)
def test_a_line_of_setup_that_fails_ends_the_job(lines, failed, tmp_path, monkeypatch):
    done = run_script(tmp_path, monkeypatch, "python=interpreter", *(f"setup={each}" for each in lines))
    assert done.returncode == 1
    assert f"error: setup: {failed}. The job ends." in done.stdout
    assert "by " not in done.stdout
    assert failed in (tmp_path / "sweep" / "logs" / "0002.log").read_text()


def test_setup_is_parsed_whatever_the_locale(tmp_path, monkeypatch):
    monkeypatch.setenv("LC_ALL", "xx_YY.UTF-8")  # which ssh may bring along; bash warns of it
    done = run_script(tmp_path, monkeypatch, "python=interpreter", "setup=export X=", "setup=X=1")
    assert "X=1\n" in done.stdout


@pytest.mark.parametrize("content", ["", "garbage", "null", "[1]", '{"a": 1}'])
def test_a_damaged_record_of_jobs_is_one_message(content, tmp_path, monkeypatch):
    sweep = planned(tmp_path, monkeypatch)
    (sweep.path / "slurm").mkdir()
    (sweep.path / "slurm" / "jobs.json").write_text(content)
    with pytest.raises(UserError, match=r"jobs\.json: expected a list of jobs, got a damaged file"):
        build_engine("slurm")[0].cancel(sweep)


def test_setup_that_bash_cannot_parse_is_refused():
    with pytest.raises(
        UserError, match=r"setup: expected shell commands, got 'if true; then'\. bash says: .*end of file"
    ):
        build_engine("slurm", ["setup=module load a", "setup=if true; then"])


def test_python_is_a_command_that_the_job_looks_up(tmp_path, monkeypatch):
    write_command(tmp_path / "apptainer", 'shift 3; X="$*" exec env X="in $1" "$2" "$3" "$4" "$5"')
    monkeypatch.setenv("IMAGES", "elsewhere")
    line = "setup=export IMAGES='my images'"
    python = 'python=apptainer exec --bind "a b" "$IMAGES/x.sif" interpreter'
    done = run_script(tmp_path, monkeypatch, line, python)
    assert "/interpreter: -P -m diffexp" in done.stdout, done.stderr
    assert "X=in my images/x.sif" in done.stdout


def test_python_is_by_default_the_one_that_submits(tmp_path, monkeypatch):
    made = planned(tmp_path, monkeypatch)
    assert f"{sys.executable} -P -m diffexp sweep trial" in build_engine("slurm", [])[0].script(made)


@pytest.mark.parametrize(("text", "problem"), [("", "got an empty text"), ("python 'x", "No closing quotation")])
def test_python_that_is_no_command_is_refused(text, problem):
    with pytest.raises(UserError, match=f"python: expected a command, .*{problem}"):
        build_engine("slurm", [f"python={text}"])


@pytest.mark.parametrize(("task", "job"), [("1", "9_1"), (None, "9")])
def test_a_trial_to_try_again_is_requeued_whatever_setup_has_set(task, job, tmp_path, monkeypatch):
    done = run_script(tmp_path, monkeypatch, "setup=set -eu", srun="exit 75", task=task)
    assert done.returncode == 75
    assert (tmp_path / "calls").read_text().splitlines() == [f"--oneliner show job {job}", f"requeue {job}"]
