"""Folders that several processes of one test session share: the first that needs one makes it."""

import os
import shutil

from filelock import FileLock


def shared_folder(tmp_path_factory, name, make):
    """The folder `name` of this session, made by make(folder) once; nobody may change what is in it."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / name
    with FileLock(base / f"{name}.lock"):
        if not (base / f"{name}.made").exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process in which make(folder) failed
            folder.mkdir()
            make(folder)
            (base / f"{name}.made").touch()
    return folder
