"""The names of runs to reproduce, checked without torch."""

import re
from pathlib import Path

from diffexp.checkpoints.paths import list_checkpoints
from diffexp.errors import UserError
from diffexp.runs.directory import Run

_WANDB = re.compile(r"(?:https?://[^/]+/)?([\w.-]+)/([\w.-]+)/(?:runs/)?([\w-]+)/?(?:\?.*)?")


def check_recorded_run(name: str) -> None:
    """Check that a name is a path of a run or a checkpoint, or may be a W&B run.

    Raises:
        UserError: if it is none of these, or the run has no checkpoint.
    """
    path = Path(name)
    if not path.is_dir():
        if not path.is_file():
            wandb_path(name)
        return
    if not Run(path).exists():
        raise UserError(f"{path}: expected a run directory, got one without config.yaml. Give another directory.")
    if not list_checkpoints(Run(path).checkpoints):
        raise UserError(
            f"{path}: expected a checkpoint to compare with, got none. Train its config in a new run with: "
            f"diffexp train {path}"
        )


def wandb_path(name: str) -> str:
    """Return ENTITY/PROJECT/ID of the name or the URL of a W&B run.

    Raises:
        UserError: if it is neither.
    """
    found = _WANDB.fullmatch(name)
    if found is None:
        raise UserError(
            f"{name}: expected a run directory, a checkpoint, or ENTITY/PROJECT/ID of a W&B run, got none of them. "
            "Give another name."
        )
    return "/".join(found.groups())
