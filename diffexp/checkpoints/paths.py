"""Paths and names of a run's checkpoints."""

import re
from pathlib import Path

from diffexp.errors import UserError, file_error
from diffexp.runs.directory import Run

EXPORTED = ".safetensors"  # the suffix of exported files
_CHECKPOINT = re.compile(r"step-(\d+)\.ckpt")


def find_checkpoint(path: Path) -> Path:
    """Find a checkpoint's file, or the latest checkpoint of a run's directory, which may be damaged.

    Raises:
        UserError: if there is none.
    """
    try:
        if path.is_dir():
            found = list_checkpoints(Run(path).checkpoints)
            if not found:
                raise UserError(
                    f"{path}: expected a run's directory with checkpoints/step-*.ckpt, got none. Train the run first."
                )
            return found[-1]
        if path.is_file():
            return path
    except OSError as error:  # a name too long for the file system
        raise file_error(error, f"{path}: cannot be read: {error.strerror}.") from error
    raise UserError(f"{path}: no such checkpoint or run directory.")


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder in the order of their steps."""
    files = [file for file in folder.glob("step-*.ckpt") if _CHECKPOINT.fullmatch(file.name)]
    return sorted(files, key=step_of)


def step_of(path: Path) -> int:
    """Return the optimiser step in a checkpoint's name.

    Raises:
        ValueError: if it is not the name of a checkpoint.
    """
    step = named_step(path)
    if step is None:
        raise ValueError(f"expected a name step-NUMBER.ckpt, got {path.name}.")
    return step


def named_step(path: Path) -> int | None:
    """Return the optimiser step in a file's name, or None if it is not a checkpoint's name."""
    match = _CHECKPOINT.fullmatch(path.name)
    return None if match is None else int(match[1])
