"""Paths and names of a run's checkpoints."""

import os
import re
from pathlib import Path

from diffexp.errors import UserError, file_error
from diffexp.runs.directory import Run

EXPORTED = ".safetensors"  # the suffix of exported files
BEST = "best.ckpt"  # a link to the best checkpoint
_CHECKPOINT = re.compile(r"step-(\d+)\.ckpt")


def find_checkpoint(path: Path) -> Path:
    """Find a checkpoint's file, or the latest checkpoint of a run's directory, which may be damaged.

    For best.ckpt it is the file that it links to, whose name contains the step.

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
            linked = best_checkpoint(path.parent) if path.name == BEST else None
            return linked or path
    except OSError as error:  # a name too long for the file system
        raise file_error(error, f"{path}: cannot be read: {error.strerror}.") from error
    raise UserError(f"{path}: no such checkpoint or run directory.")


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder in the order of their steps."""
    files = [file for file in folder.glob("step-*.ckpt") if _CHECKPOINT.fullmatch(file.name)]
    return sorted(files, key=step_of)


def checkpoint_file(folder: Path, step: int) -> Path:
    """Return the file of the checkpoint of a step."""
    return folder / f"step-{step:08d}.ckpt"


def best_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint in a folder that its best.ckpt links to, or None without one."""
    link = folder / BEST
    target = folder / Path(os.readlink(link)).name if link.is_symlink() else link
    return target if named_step(target) is not None and target.is_file() else None


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
