"""A read-only file system is a failure of the machine: exit code 1, so that a sweep tries again."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffexp.errors import EnvironmentFailure, UserError, writing
from tests.helpers.needs import require
from tests.helpers.small import SMALL, fit

# Forks a process for each command, after the imports.
RUN_ALL = """
import json, os, sys
import diffexp.commands.sample, diffexp.commands.score, diffexp.commands.train
from diffexp.cli.main import main

outcomes = []
for arguments in json.loads(sys.argv[1]):
    printed = os.open("printed", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    if os.fork() == 0:
        sys.argv = ["diffexp", *arguments]
        os.dup2(printed, 2)
        main()
        sys.exit(0)
    code = os.waitstatus_to_exitcode(os.wait()[1])
    outcomes.append([code, os.pread(printed, 100_000, 0).decode()])
json.dump(outcomes, open("outcomes", "w"))
"""
WRITERS = [
    ["train", "digits", *SMALL, "run_dir=disk/new"],
    ["train", "digits", *SMALL, "runs_dir=disk"],
    ["train", "disk/run", "--resume", "training.max_steps=12"],
    ["reproduce", "disk/run"],
    ["sample", "disk/run", "count=2"],
    ["sample", "disk/run", "count=2", "out=disk/grid.png"],
    ["evaluate", "disk/run", "count=40", "extractor.name=digits_v1", "out=disk/table"],
    ["score", "disk/images.npz", "digits", "count=40", "out=disk/score.json"],
    ["score", "disk/images.npz", "digits", "count=40", "reference.cache=disk/cache"],
    ["export", "disk/run", "out=disk/weights.safetensors"],
    ["report", "disk/run", "--out", "disk/report.html"],
    ["report", "disk/run", "--out", "page.html", "--figures", "disk/figures"],
    ["sweep", "plan", "seeds", "--out", "disk/planned"],
    ["sweep", "run", "seeds", "--out", "disk/planned"],
    ["extractor", "digits", "name=mine", "out=disk/extractor.safetensors"],
]


@pytest.mark.slow
def test_each_command_that_writes_ends_with_1(tmp_path):
    fit(tmp_path / "writable" / "run", "training.max_steps=2", "sample_grid=null")
    np.savez(tmp_path / "writable" / "images.npz", images=np.zeros((40, 8, 8, 1), np.uint8))
    commands = [*WRITERS, ["sample", "disk/run", "count=2", "out=elsewhere.png"]]
    script = """
        mkdir disk
        mount -t tmpfs none disk && cp -r writable/. disk && mount -o remount,ro disk || exit 77
        exec "$@"
    """
    command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", RUN_ALL, json.dumps(commands)]
    done = subprocess.run(command, cwd=tmp_path, timeout=300, check=False, env={**os.environ, "PYTHONPATH": root()})
    require(done.returncode != 77, "the right to mount a disk")
    *outcomes, elsewhere = json.loads((tmp_path / "outcomes").read_text())
    for arguments, (code, printed) in zip(WRITERS, outcomes, strict=True):
        assert (code, "Traceback" in printed) == (1, False), (arguments, printed)
        assert "Read-only file system" in printed.splitlines()[-1], (arguments, printed)
    assert elsewhere[0] == 0
    assert (tmp_path / "elsewhere.png").is_file()


def root():
    return str(Path(__file__).parents[2])


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        *((number, EnvironmentFailure) for number in (errno.EROFS, errno.EMFILE, errno.ENOTCONN, errno.EHOSTDOWN)),
        *((number, UserError) for number in (errno.EACCES, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)),
    ],
)
def test_whose_fault_an_error_is(number, expected):
    with pytest.raises(expected, match=f"out: x cannot be written: {os.strerror(number)}"), writing("out: x"):
        raise OSError(number, os.strerror(number))
