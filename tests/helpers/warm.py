"""The command line in processes that are forked from one which has imported everything: most of a short command's time.

Each has its own process, folder, environment and exit, as if it had been started by a shell.
"""

import atexit
import gc
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Warm:
    """Starts the process that is forked, when it is first needed."""

    def __init__(self):
        self._process = None
        self._connection = None

    def run(self, arguments, cwd, environment, timeout):
        """Exit code, stdout and stderr of one command."""
        if self._process is None:
            self._start()
        with tempfile.TemporaryDirectory() as folder:
            files = [str(Path(folder) / name) for name in ("out", "err")]
            request = {"arguments": arguments, "cwd": str(cwd), "environment": environment, "files": files}
            self._connection.settimeout(timeout)
            try:
                self._connection.sendall(json.dumps(request).encode() + b"\n")
                answer = self._connection.makefile().readline()
            except TimeoutError:
                self._process.kill()
                self._process = None
                raise
            return int(answer), *(Path(file).read_text() for file in files)

    def _start(self):
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "tests.helpers.warm", str(theirs.fileno())]
        self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()])
        theirs.close()
        self._connection = ours


def serve(descriptor):
    """Fork for every request and tell how it ended; returns in the forked process, as the command."""
    connection = socket.socket(fileno=descriptor)
    requests = connection.makefile()
    while line := requests.readline():
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            connection.detach()
            become(request)
            return True
        _, status = os.waitpid(child, 0)
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    return False


def become(request):
    """This process as a shell would have started it."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = [str(Path(sys.executable).with_name("diffexp")), *request["arguments"]]
    sys.path[0] = request["cwd"]
    for stream, file in zip((1, 2), request["files"], strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), stream)
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
    import diffexp.commands.reproduce
    import diffexp.commands.sample
    import diffexp.commands.score
    import diffexp.commands.train  # noqa: F401
    from diffexp.cli.main import main

    gc.collect()
    gc.freeze()  # a collection in a forked process would copy every page that it looks at
    if serve(int(sys.argv[1])):
        finish(main)
