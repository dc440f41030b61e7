"""Commands and scripts in processes forked from one that has imported everything, which is most of a short one's time.

Each has its own process, folder, environment and exit, as if it had been started by a shell. The trials of a sweep that
is started here are forked too, and the ranks of a training on several devices. tests/integration/test_slurm.py,
test_wandb.py and test_faults.py start trials and ranks as users do.
"""

import atexit
import contextlib
import ctypes
import fcntl
import gc
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[2]
SOCKET = "TESTS_WARM_SOCKET"  # the environment variable with the path of the socket


class WarmProcess:
    """A command that runs, with the interface of `subprocess.Popen`; without streams, what it prints goes to files.

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
    """Starts the server, which forks; pytest's workers share it."""

    def __init__(self):
        self._line = self._process = None  # the server ends when the line closes

    def prepare(self):
        """Start the server, which imports in the background. Processes that this one starts later use it too."""
        self._line, theirs = socket.socketpair()
        folder = Path(tempfile.mkdtemp(prefix="warm-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ[SOCKET] = str(folder / "socket")
        with theirs, socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.environ[SOCKET])
            listener.listen(64)  # requests wait while the server imports
            descriptors = [listener.fileno(), theirs.fileno()]
            command = [sys.executable, "-m", "tests.helpers.warm", *map(str, descriptors)]
            self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=descriptors)

    def start(self, arguments, cwd, environment, script=None, streams=(), terminal=None):
        """Start one command of diffexp, or a Python script; `streams` are its standard input, output and error."""
        path = self._socket()
        request = {"arguments": list(map(str, arguments)), "script": script and str(script)}
        if terminal is not None:
            request["session"], streams = True, [terminal] * 3
        return fork(path, {**request, "cwd": str(cwd), "environment": {**environment, SOCKET: path}}, streams)

    def command(self, *arguments):
        """The words that start a command of diffexp in a shell script."""
        self._socket()
        return ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "tests.helpers.forked", *arguments]

    def _socket(self):
        if SOCKET not in os.environ:
            self.prepare()
        return os.environ[SOCKET]


warm = Warm()


def fork(path, request, descriptors=()):
    """Ask for a process; it gets copies of the descriptors: none, or its three streams and any to keep open."""
    folder = Path(tempfile.mkdtemp(dir=Path(path).parent))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(120)
        connection.connect(path)
        socket.send_fds(connection, [b"+"], descriptors)
        connection.sendall(json.dumps({**request, "folder": str(folder)}).encode())
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b"+", "the server that forks has ended"
    return WarmProcess(folder, int((folder / "pid").read_text()))


def start_trial(command, *, cwd, env, stdout, pass_fds, **options):
    """What `subprocess.Popen` does in `diffexp.sweeps.runner`."""
    assert command[:4] == [sys.executable, "-P", "-m", "diffexp"]
    assert options == {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "start_new_session": True}
    request = {"arguments": command[4:], "script": None, "cwd": str(cwd), "environment": dict(env), "session": True}
    with open(os.devnull) as nothing:
        return fork(os.environ[SOCKET], request, [nothing.fileno(), stdout.fileno(), stdout.fileno(), *pass_fds])


def start_rank(command, *, env, cwd):
    """What `subprocess.Popen` does in Lightning's launcher: start this command once more, with another LOCAL_RANK."""
    assert (command[1:], cwd) == (["-m", "tests.helpers.warm", *sys.argv[1:]], None)
    request = {"arguments": sys.argv[1:], "script": None, "cwd": os.getcwd(), "environment": dict(env)}
    return fork(os.environ[SOCKET], request, [0, 1, 2])


def serve(listener, line):
    """Fork for every request; return the request in the forked process. Return None when the starting process ends."""
    while line not in select.select([listener, line], [], [])[0]:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        connection, _ = listener.accept()
        _, descriptors, *_ = socket.recv_fds(connection, 1, 4)
        if os.fork() == 0:
            listener.close()
            os.close(line)
            request = json.loads(connection.makefile().read())
            keep(request, descriptors, connection)
            connection.close()
            become(request, descriptors)
            return request
        connection.close()
        for each in descriptors:
            os.close(each)
    return None


def keep(request, descriptors, connection):
    """Fork once more; return in the command, and note its process id and exit code in the other."""
    command = os.fork()
    if command:
        for each in descriptors:
            os.close(each)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _write(request, "pid", command)
        connection.send(b"+")
        connection.close()
        _, status = os.waitpid(command, 0)
        with contextlib.suppress(FileNotFoundError):  # all tests have ended
            _write(request, "code", os.waitstatus_to_exitcode(status))
        os._exit(0)


def _write(request, name, value):
    file = Path(request["folder"], name)
    file.with_suffix(".new").write_text(str(value))
    file.with_suffix(".new").rename(file)


def become(request, descriptors):
    """This process as a shell, or a sweep, would have started it."""
    if "mounts" in request:
        with open(request["mounts"]) as namespace:
            assert ctypes.CDLL(None).setns(namespace.fileno(), 0) == 0
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    program = request["script"] or Path(sys.executable).with_name("diffexp")
    sys.argv = [str(program), *request["arguments"]]
    sys.path[:1] = [str(Path(program).parent), *([str(ROOT)] if request["script"] else [])]
    rank_zero_only.rank = _get_rank() or 0  # as Lightning does when it is imported
    if request.get("session"):
        os.setsid()
    if not descriptors:
        files = [Path(request["folder"], name) for name in ("out", "err")]
        descriptors = [os.open(os.devnull, os.O_RDONLY), *(os.open(file, os.O_WRONLY | os.O_CREAT) for file in files)]
    for stream, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, stream)
        os.close(descriptor)
    if request.get("session") and os.isatty(0):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def finish(main):
    """Run the command and end as Python does, but skip the teardown of modules, which takes seconds.

    Python would also exit with 120 if it could not flush a stream.
    """
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException as error:
        traceback.print_exc()
        code = 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(request):
    """Run the script or the command line."""
    if request["script"]:
        runpy.run_path(request["script"], run_name="__main__")
        return
    diffexp.sweeps.runner.subprocess = SimpleNamespace(
        Popen=start_trial, DEVNULL=subprocess.DEVNULL, STDOUT=subprocess.STDOUT
    )
    subprocess_script.subprocess = SimpleNamespace(Popen=start_rank)
    main()


if __name__ == "__main__":
    from lightning.fabric.utilities.rank_zero import _get_rank
    from lightning.pytorch.strategies.launchers import subprocess_script
    from lightning.pytorch.utilities import rank_zero_only

    import diffexp.commands.evaluate
    import diffexp.commands.export
    import diffexp.commands.import_
    import diffexp.commands.likelihood
    import diffexp.commands.sample
    import diffexp.commands.score
    import diffexp.commands.train
    import diffexp.data.digits  # which takes most of scikit-learn
    import diffexp.models.diffusion
    import diffexp.sweeps.runner
    from diffexp.cli.main import main

    assert "wandb" not in sys.modules, "which reads its variables when it is imported"
    gc.collect()
    gc.freeze()  # a collection in a forked process would copy every page that it looks at
    request = serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
    if request is not None:
        finish(lambda: run(request))
