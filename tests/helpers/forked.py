"""`python -m tests.helpers.forked WORD…` is `diffexp WORD…`, forked after all imports, with this process's streams.

It also sees the disks that are mounted for this process only.
"""

import os
import sys

from tests.helpers.warm import SOCKET, fork

if __name__ == "__main__":
    request = {"arguments": sys.argv[1:], "script": None, "cwd": os.getcwd(), "environment": dict(os.environ)}
    code = fork(os.environ[SOCKET], {**request, "mounts": f"/proc/{os.getpid()}/ns/mnt"}, [0, 1, 2]).wait()
    sys.exit(code if code >= 0 else 128 - code)
