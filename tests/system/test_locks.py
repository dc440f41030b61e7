"""A lock on a directory holds against other processes, and ends with the one that has it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from diffexp.errors import EnvironmentFailure
from diffexp.system import locks

HOLD = """
import sys, time
from pathlib import Path
from diffexp.system.locks import locked
with locked(Path(sys.argv[1]), "run_dir"):
    print("held", flush=True)
    {inside}
"""


def holder(folder, inside="time.sleep(60)"):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(inside=inside), folder], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_and_told_who_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_PATIENCE", 0.3)
    process = holder(tmp_path / "run")
    told = pytest.raises(EnvironmentFailure, match=f"run_dir: .*run is in use by process {process.pid} on ")
    with told, locks.locked(tmp_path / "run", "run_dir"):
        pass
    process.kill()
    process.wait()
    with locks.locked(tmp_path / "run", "run_dir"):
        pass
    assert list((tmp_path / "run").iterdir()) == []


def test_a_killed_process_leaves_no_lock_though_its_children_live(tmp_path):
    process = holder(tmp_path, "import os; child = os.fork(); print(child, flush=True) if child else 0; time.sleep(60)")
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    os.kill(child, 0)
    started = time.monotonic()
    with locks.locked(tmp_path, "run_dir"):
        assert time.monotonic() - started < 1
    os.kill(child, signal.SIGKILL)


def test_a_folder_is_in_use_while_a_process_holds_it(tmp_path):
    assert not locks.in_use(tmp_path / "gone")
    assert not locks.in_use(tmp_path)
    process = holder(tmp_path)
    assert locks.in_use(tmp_path)
    process.kill()
    process.wait()
    assert (tmp_path / locks.LOCK_NAME).is_file()
    assert not locks.in_use(tmp_path)
    with locks.locked(tmp_path, "run_dir"):
        assert locks.in_use(tmp_path)  # to ask does not release the lock
        asked = "import sys, pathlib; from diffexp.system import locks; print(locks.in_use(pathlib.Path(sys.argv[1])))"
        told = subprocess.run([sys.executable, "-c", asked, tmp_path], capture_output=True, text=True, check=True)
        assert told.stdout == "True\n"
    assert not locks.in_use(tmp_path)


def test_the_holder_is_a_live_process_and_not_what_a_file_says(tmp_path):
    assert locks.holder_pid(tmp_path) is None
    process = holder(tmp_path)
    assert locks.holder_pid(tmp_path) == process.pid
    process.kill()
    process.wait()
    assert f'"pid": {process.pid}' in (tmp_path / locks.LOCK_NAME).read_text()
    assert locks.holder_pid(tmp_path) is None
    process = holder(tmp_path)
    text = (tmp_path / locks.LOCK_NAME).read_text()
    for damaged in ("", "3", text.replace(os.uname().nodename, "another")):
        (tmp_path / locks.LOCK_NAME).write_text(damaged)
        assert locks.holder_pid(tmp_path) is None
    process.kill()
    process.wait()


def test_who_waits_gets_it_when_the_other_ends(tmp_path):
    process = holder(tmp_path, "time.sleep(0.5)")
    with locks.locked(tmp_path, "run_dir"):
        assert process.wait(timeout=5) == 0
        assert (tmp_path / locks.LOCK_NAME).is_file()


def test_many_at_once_take_turns(tmp_path):
    """Each adds to a number that two at a time would spoil."""
    (tmp_path / "number").write_text("0")
    add = "file = Path(sys.argv[1], 'number'); n = int(file.read_text()); time.sleep(0.02); file.write_text(str(n + 1))"
    code = HOLD.format(inside=add)
    processes = [subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.DEVNULL) for _ in range(12)]
    assert [process.wait(timeout=60) for process in processes] == [0] * 12
    assert (tmp_path / "number").read_text() == "12"


def test_a_directory_in_the_place_of_one_that_was_moved_keeps_its_lock(tmp_path):
    with locks.locked(tmp_path / "run", "run_dir"):
        (tmp_path / "run").rename(tmp_path / "away")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / locks.LOCK_NAME).touch()
    assert (tmp_path / "run" / locks.LOCK_NAME).exists()
