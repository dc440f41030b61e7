"""Disks that are full, read-only or gone, and a W&B that does not answer: nothing saved is lost, and all is printed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from diffexp.checkpoints.file import latest_valid_checkpoint, read_checkpoint
from diffexp.checkpoints.paths import list_checkpoints, step_of
from tests.helpers.needs import require
from tests.helpers.small import SMALL, diffexp, metrics, start
from tests.helpers.wandb_server import WandbServer
from tests.helpers.warm import warm
from tests.integration.test_training import assert_same, state

pytestmark = pytest.mark.slow

LONG = [
    *SMALL,
    "training.max_steps=80",
    "training.log_every_n_steps=5",
    "checkpoint={'every': 20, 'keep': None}",
    "sample_grid={'every': 40, 'count': 4}",
]
# Seconds that W&B's server has; tests/loggers/test_wandb_timeouts.py tests the default.
PATIENCE = {"WANDB_INIT_TIMEOUT": "6", "WANDB_FINISH_TIMEOUT": "6"}
TRAIN = ["train", "digits", *LONG, "run_dir=disk/run"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    diffexp("train", "digits", *LONG, "run_dir=run", cwd=folder)
    return folder / "run"


def on_a_disk(folder, megabytes, meanwhile):
    """Train on a disk of its own, while a shell script does something to it; what is left is copied to `kept`."""
    (folder / "disk").mkdir()
    script = f"""
        mount -t tmpfs -o size={megabytes}m none disk || exit 77
        "$@" 2>printed &
        training=$!
        saved() {{ until ls disk/run/checkpoints/step-*.ckpt 2>/dev/null | grep -q . ; do sleep 0.05; done; }}
        {meanwhile}
        wait $training
        code=$?
        cp -r disk/run kept
        exit $code
    """
    command = ["unshare", "--mount", "sh", "-c", script, "sh", *warm.command(*TRAIN)]
    done = subprocess.run(command, cwd=folder, timeout=300, check=False)
    require(done.returncode != 77, "the right to mount a disk")
    printed = (folder / "printed").read_text()
    assert "Traceback" not in printed, printed
    return done.returncode, printed


def test_a_disk_that_fills_up_ends_the_run_with_the_last_checkpoint_whole(tmp_path):
    code, printed = on_a_disk(tmp_path, 2, "")
    assert code == 1
    assert "could not be saved: " in printed
    assert "MB are needed" in printed or "No space left" in printed
    found = list_checkpoints(tmp_path / "kept" / "checkpoints")
    assert f"the last good checkpoint is disk/run/checkpoints/{found[-1].name}" in printed.splitlines()[-1]
    for file in found:
        read_checkpoint(file)
    assert not list(tmp_path.glob("kept/**/*.tmp"))


def test_a_disk_with_room_again_gets_everything(tmp_path, undisturbed):
    fill = """
        saved
        head -c 100M /dev/zero > disk/filler 2>/dev/null
        until grep -q 'could not be saved' printed; do sleep 0.05; done
        rm disk/filler
    """
    code, printed = on_a_disk(tmp_path, 30, fill)
    assert code == 0, printed
    run = tmp_path / "kept"
    assert_same(state(run), state(undisturbed))
    assert metrics(run) == metrics(undisturbed)
    assert len(list_checkpoints(run / "checkpoints")) < len(list_checkpoints(undisturbed / "checkpoints"))
    last = "step-00000080-ddim-5.png"
    assert (run / "samples" / last).read_bytes() == (undisturbed / "samples" / last).read_bytes()


def test_a_disk_that_is_full_before_the_first_checkpoint_loses_nothing(tmp_path, undisturbed):
    """The same command, as of a job script, ends with 1; once there is room, it starts again at 0."""
    (tmp_path / "disk").mkdir()
    script = """
        mount -t tmpfs -o size=8m none disk || exit 77
        head -c 8050000 /dev/zero > disk/filler
        "$@" 2>full
        echo $? >code
        rm disk/filler
        "$@" 2>printed
        code=$?
        cp -r disk/run kept
        exit $code
    """
    command = ["unshare", "--mount", "sh", "-c", script, "sh", *warm.command(*TRAIN, "--resume")]
    code = subprocess.run(command, cwd=tmp_path, timeout=300, check=False).returncode
    require(code != 77, "the right to mount a disk")
    full, printed = ((tmp_path / name).read_text() for name in ("full", "printed"))
    assert (tmp_path / "code").read_text() == "1\n", full
    assert "3 checkpoints in a row could not be saved" in full
    assert code == 0, printed
    assert "the run stopped after step 60, before its first checkpoint, so it starts again at step 0" in printed
    run = tmp_path / "kept"
    assert_same(state(run), state(undisturbed))
    assert metrics(run) == metrics(undisturbed)
    unsaved = [json.loads(line) for line in (run / "metrics.jsonl.unsaved").read_text().splitlines()]
    assert unsaved == [row for row in metrics(undisturbed) if row["step"] <= 60]


def test_a_disk_that_becomes_read_only(tmp_path):
    code, printed = on_a_disk(tmp_path, 30, "saved; mount --bind disk disk; mount -o remount,ro,bind disk")
    assert code == 1
    assert "Read-only file system" in printed
    assert "error: disk/run/checkpoints: " in printed.splitlines()[-1]
    found = latest_valid_checkpoint(tmp_path / "kept" / "checkpoints")
    assert found is not None
    assert str(found[0].name) in printed.splitlines()[-1]


def started(folder, *overrides):
    process = start("train", "digits", *LONG, *overrides, "run_dir=run", cwd=folder)
    await_checkpoint(folder / "run", process)
    return process


def await_checkpoint(run, process):
    deadline = time.monotonic() + 120
    while not list_checkpoints(run / "checkpoints"):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_a_directory_that_is_taken_away(tmp_path):
    process = started(tmp_path, "training.max_steps=100000")
    (tmp_path / "run").rename(tmp_path / "away")
    err = process.communicate(timeout=120)[1]
    assert process.returncode == 1, err
    assert "Traceback" not in err
    assert "could not be saved: No such file or directory" in err
    assert "the last good checkpoint is run/checkpoints/step-" in err.splitlines()[-1]
    assert not (tmp_path / "run").exists()
    assert latest_valid_checkpoint(tmp_path / "away" / "checkpoints") is not None


def test_a_second_process_in_the_same_directory_is_refused(tmp_path):
    process = started(tmp_path, "training.max_steps=100000")
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("run/*.yaml")}
    refused = diffexp("train", "run", "--resume", cwd=tmp_path, expect=1).stderr
    assert f"run_dir: run is in use by process {process.pid} on " in refused
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.glob("run/*.yaml")}
    process.send_signal(signal.SIGKILL)
    process.wait()
    step = step_of(list_checkpoints(tmp_path / "run" / "checkpoints")[-1])
    diffexp("train", "run", "--resume", f"training.max_steps={step + 40}", cwd=tmp_path)


# --- W&B


class Broken(BaseHTTPRequestHandler):
    """Answers everything with 500, or never."""

    never = False

    def do_POST(self):
        if self.never:
            time.sleep(3600)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_PUT = do_POST  # noqa: N815  # as the base class calls them

    def log_message(self, *args):
        pass


class Never(Broken):
    never = True


@pytest.mark.parametrize(("answers", "mode"), [(Broken, "online"), (Never, None)])
def test_a_server_that_is_broken_from_the_start(tmp_path, answers, mode, undisturbed, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), answers)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    address = {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}", **PATIENCE}
    began = time.monotonic()
    done = diffexp("train", "digits", *LONG, "loggers=[csv,wandb]", "run_dir=run", cwd=tmp_path, **address)
    server.shutdown()
    assert time.monotonic() - began < 60
    assert "W&B cannot be reached, so the run is recorded offline" in done.stderr
    (offline,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert f"W&B: recorded offline; upload it with: wandb sync run/wandb/{offline.name}" in done.stderr
    assert_same(state(tmp_path / "run"), state(undisturbed))


@pytest.mark.parametrize("how", ["500", "never", "gone"])
def test_a_server_that_breaks_in_mid_run(tmp_path, undisturbed, how, monkeypatch):
    server = WandbServer().start()
    for name, value in (server.environment | PATIENCE).items():
        monkeypatch.setenv(name, value)
    process = started(tmp_path, "loggers=[csv,wandb]")
    server.fail(how)
    began = time.monotonic()
    err = process.communicate(timeout=200)[1]
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert time.monotonic() - began < 60
    assert_same(state(tmp_path / "run"), state(undisturbed))
    assert metrics(tmp_path / "run") == metrics(undisturbed)
    (record,) = (tmp_path / "run" / "wandb").glob("run-*/run-*.wandb")
    assert (
        f"the server has not received the complete run; upload it with: wandb sync run/wandb/{record.parent.name}"
        in err
    )


def test_loggers_that_cannot_write_do_not_end_a_run(tmp_path, undisturbed):
    (tmp_path / "run").mkdir()
    process = started(tmp_path, "loggers=[csv,tensorboard]")
    (tmp_path / "run" / "metrics.csv").unlink()
    (tmp_path / "run" / "metrics.csv").mkdir()
    shutil.rmtree(tmp_path / "run" / "tensorboard")
    err = process.communicate(timeout=120)[1]
    assert process.returncode == 0, err
    assert "WARNING: the logger csv cannot record" in err
    assert metrics(tmp_path / "run") == metrics(undisturbed)


# --- what is printed cannot be


def test_a_log_on_the_full_disk_and_a_broken_pipe_end_nothing(tmp_path, undisturbed):
    """Standard error goes to /dev/full, then to a pipe that nobody reads; a signal still stops the run with a save."""
    command = ["train", "digits", *LONG]
    with open("/dev/full", "w") as full:
        process = start(*command, "run_dir=run", cwd=tmp_path, streams=[0, full.fileno(), full.fileno()])
    assert process.wait(timeout=200) == 0
    assert_same(state(tmp_path / "run"), state(undisturbed))
    reads, writes = os.pipe()
    process = start(*command, "run_dir=piped", "training.max_steps=100000", cwd=tmp_path, streams=[0, 1, writes])
    os.close(writes)
    while not list_checkpoints(tmp_path / "piped" / "checkpoints"):
        time.sleep(0.01)
    os.close(reads)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=100) == 128 + signal.SIGTERM
    status = json.loads((tmp_path / "piped" / "status.json").read_text())
    assert status["state"] == "interrupted"
    assert list_checkpoints(tmp_path / "piped" / "checkpoints")[-1].name == f"step-{status['step']:08d}.ckpt"


def test_a_signal_to_any_of_several_processes_stops_all(tmp_path):
    """And the incomplete run does not end as if it were complete. Lightning starts the second process itself."""
    two = ["training.max_steps=100000", "training.devices=2", "training.accelerator=cpu", "run_dir=run"]
    command = [sys.executable, "-m", "diffexp", "train", "digits", *LONG, *two]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    await_checkpoint(tmp_path / "run", process)
    (child,) = subprocess.run(
        ["pgrep", "-P", str(process.pid), "-f", "diffexp"], capture_output=True, text=True, check=True
    ).stdout.split()[:1]
    subprocess.run(["kill", "-USR1", child], check=True)
    err = process.communicate(timeout=100)[1]
    assert process.returncode == 128 + signal.SIGUSR1, err
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["state"] == "interrupted"
    assert list_checkpoints(tmp_path / "run" / "checkpoints")[-1].name == f"step-{status['step']:08d}.ckpt"
