"""The command line in processes that are forked from one which has imported everything: most of a short command's time.

Each has its own process, folder, environment and exit, as if it had been started by a shell.
"""

import atexit
import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]


class WarmProcess:
    """A command that runs, with the interface of `subprocess.Popen`; what it prints goes to files.

    Attributes:
        pid: its process id.
        returncode: its exit code, minus the number of the signal that ended it, or None while it runs.
    """

    def __init__(self, folder, pid):
        self._folder = folder
        self.pid = pid
        self.returncode = None

    def poll(self):
        """The exit code, or None while it runs."""
        if self.returncode is None:
            with contextlib.suppress(FileNotFoundError):
                self.returncode = int((self._folder / "code").read_text())
        return self.returncode

    def wait(self, timeout=None):
        """Wait for its end; return the exit code."""
        deadline = time.monotonic() + (timeout or float("inf"))
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("diffexp", timeout)
            time.sleep(0.003)
        return self.returncode

    def communicate(self, timeout=None):
        """Wait for its end; return stdout and stderr."""
        self.wait(timeout)
        return (self._folder / "out").read_text(), (self._folder / "err").read_text()

    def send_signal(self, number):
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self):
        """Kill it."""
        self.send_signal(signal.SIGKILL)


class Warm:
    """Starts the process that is forked, when it is first needed."""

    def __init__(self):
        self._process = None
        self._connection = None

    def start(self, arguments, cwd, environment):
        """Start one command."""
        if self._process is None or self._process.poll() is not None:
            self._start()
        folder = Path(tempfile.mkdtemp(prefix="warm-"))
        atexit.register(_remove, folder)
        request = {"arguments": arguments, "cwd": str(cwd), "environment": environment, "folder": str(folder)}
        self._connection.sendall(json.dumps(request).encode() + b"\n")
        while not (folder / "pid").exists():
            assert self._process.poll() is None, "the process that is forked has ended"
            time.sleep(0.002)
        return WarmProcess(folder, int((folder / "pid").read_text()))

    def _start(self):
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "tests.helpers.warm", str(theirs.fileno())]
        self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()])
        theirs.close()
        self._connection = ours


def _remove(folder):
    for name in ("pid", "code", "out", "err"):
        (folder / name).unlink(missing_ok=True)
    folder.rmdir()


def serve(descriptor):
    """Fork for every request; return in the forked process, as the command."""
    connection = socket.socket(fileno=descriptor)
    requests = connection.makefile()
    while line := requests.readline():
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if os.fork() == 0:
            connection.detach()
            request = json.loads(line)
            keep(request)
            become(request)
            return True
    return False


def keep(request):
    """Fork once more; return in the command, and note its process id and exit code in the other."""
    command = os.fork()
    if command:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _write(request, "pid", command)
        _, status = os.waitpid(command, 0)
        _write(request, "code", os.waitstatus_to_exitcode(status))
        os._exit(0)


def _write(request, name, value):
    file = Path(request["folder"], name)
    file.with_suffix(".new").write_text(str(value))
    file.with_suffix(".new").rename(file)


def become(request):
    """This process as a shell would have started it."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = [str(Path(sys.executable).with_name("diffexp")), *request["arguments"]]
    sys.path[0] = request["cwd"]
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(request["folder"], name), os.O_WRONLY | os.O_CREAT), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


def finish(main):
    """Run the command and end as Python does, but skip the teardown of modules, which takes seconds."""
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    import diffexp.commands.evaluate
    import diffexp.commands.export
    import diffexp.commands.import_
    import diffexp.commands.likelihood
    import diffexp.commands.sample
    import diffexp.commands.score
    import diffexp.commands.train  # noqa: F401
    from diffexp.cli.main import main

    assert "wandb" not in sys.modules, "which reads its variables when it is imported"
    gc.collect()
    gc.freeze()  # a collection in a forked process would copy every page that it looks at
    if serve(int(sys.argv[1])):
        finish(main)
