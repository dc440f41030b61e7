"""Where the checkpoints of a run are, and how they are named."""

import re
from pathlib import Path

from diffexp.errors import UserError
from diffexp.runs.directory import Run

_CHECKPOINT = re.compile(r"step-(\d+)\.ckpt")


def find_checkpoint(path: Path) -> Path:
    """A checkpoint's file, or the newest one of a run's directory, which may be damaged.

    Raises:
        UserError: if there is none.
    """
    try:
        if path.is_dir():
            found = list_checkpoints(Run(path).checkpoints)
            if not found:
                raise UserError(f"{path}: has no checkpoints/step-*.ckpt; is it a run's directory, and trained?")
            return found[-1]
        if path.is_file():
            return path
    except OSError as error:  # a name too long for the file system
        raise UserError(f"{path}: {error.strerror}") from error
    raise UserError(f"{path}: no such checkpoint or run directory")


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest step first."""
    files = [file for file in folder.glob("step-*.ckpt") if _CHECKPOINT.fullmatch(file.name)]
    return sorted(files, key=step_of)


def step_of(path: Path) -> int:
    """The optimiser step in a checkpoint's name.

    Raises:
        ValueError: if the name is not that of a checkpoint.
    """
    step = named_step(path)
    if step is None:
        raise ValueError(f"{path.name} is not named step-NUMBER.ckpt")
    return step


def named_step(path: Path) -> int | None:
    """The optimiser step in the name of a file, if it is named like a run's checkpoint."""
    match = _CHECKPOINT.fullmatch(path.name)
    return None if match is None else int(match[1])
