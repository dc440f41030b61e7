"""A run directory: what a run leaves behind, and from which the same run can be made again.

config.yaml        the resolved config; `diffexp train RUN/config.yaml` is the same run
environment.json   versions, git commit, device, Slurm ids
status.json        where the run stands
metrics.jsonl      one JSON object a line: "step" and what was logged at it
checkpoints/  samples/  scores/  evaluations/
drawings/          what `diffexp sample` draws; no part of the training, so nothing compares or reports it
"""

import json
import logging
import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from diffexp.config.merge import as_yaml
from diffexp.config.schemas.experiment import Experiment
from diffexp.errors import UserError, writing
from diffexp.system.files import atomic_write_text, is_temporary, require_folder
from diffexp.system.locks import LOCK_NAME

log = logging.getLogger(__name__)

# A launcher starts a node's other processes with this command line again; they find the run's directory here.
RUN_VARIABLE = "DIFFEXP_RUN_DIR"

_GRID = re.compile(r"step-(\d+)-([\w-]+)\.png")  # the letters that a config allows in the name of a grid's sampler


class Run:
    """The directory of one run.

    Args:
        path: the directory; need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.environment = path / "environment.json"
        self.status = path / "status.json"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.samples = path / "samples"
        self.drawings = path / "drawings"
        self.scores = path / "scores"

    def exists(self) -> bool:
        """Whether the directory holds a run."""
        return self.config.is_file()

    def describe(self, config: str, environment: Mapping[str, Any]) -> None:
        """Make the directory, or that of a resumed run current, and write what describes the run.

        The environment gets a "run_id" that stays ($WANDB_RUN_ID, which W&B's agents and our sweeps set, else a
        random one), and the environments of earlier starts below "earlier".

        Raises:
            UserError, EnvironmentFailure: if it cannot be written to.
        """
        with writing(f"run_dir: {self.path}"):
            self.path.mkdir(parents=True, exist_ok=True)
            before = self.read_environment()
            earlier = [*before.pop("earlier", []), before] if before else []
            run_id = before.get("run_id") or os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
            described = {"run_id": run_id, **environment, "earlier": earlier}
            atomic_write_text(self.environment, json.dumps(described, indent=2) + "\n")
            # last, because this file is what makes the directory a run
            atomic_write_text(self.config, config)

    def discard_if_empty(self) -> None:
        """Remove the directory if nothing was written to it, and the one around it if nothing else is there."""
        with suppress(OSError):  # rmdir only removes empty ones
            self.path.rmdir()
            self.path.parent.rmdir()

    def write_status(self, state: str, step: int, steps: int, **more: Any) -> None:
        """Replace status.json: the state ("running", "finished", "interrupted", "failed") and the step.

        Raises:
            OSError: if it cannot be written.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        require_folder(self.path)
        status = {"state": state, "step": step, "steps": steps, "updated": now, "pid": os.getpid(), **more}
        atomic_write_text(self.status, json.dumps(status, indent=2) + "\n")

    def read_status(self) -> dict[str, Any]:
        """status.json; {} without one that can be read."""
        try:
            status = json.loads(self.status.read_text())
        except (OSError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}

    def seconds(self) -> float:
        """That the run has been trained for, as status.json says."""
        seconds = self.read_status().get("seconds", 0.0)
        return seconds if isinstance(seconds, (int, float)) else 0.0

    def id(self) -> str | None:
        """The "run_id" of environment.json; None without one that can be read."""
        try:
            run_id = self.read_environment().get("run_id")
        except (UserError, OSError):
            return None
        return run_id if isinstance(run_id, str) else None

    def read_environment(self) -> dict[str, Any]:
        """environment.json; {} before the run has started.

        Raises:
            UserError: if it cannot be read.
        """
        if not self.environment.is_file():
            return {}
        try:
            environment: dict[str, Any] = json.loads(self.environment.read_text())
            if not isinstance(environment, dict):
                raise ValueError
        except ValueError as error:
            raise UserError(f"{self.environment}: is damaged; without it this is no run to go on with") from error
        return environment


def grids(folder: Path) -> list[tuple[int, str, Path]]:
    """(step, sampler's name, file) of the grids that training drew into a folder, in the order of their names."""
    matches = ((_GRID.fullmatch(file.name), file) for file in sorted(folder.glob("step-*.png")))
    return [(int(match[1]), match[2], file) for match, file in matches if match is not None]


def config_text(experiment: Experiment) -> str:
    """config.yaml: the resolved config, without the run_dir, so that the same run can be made elsewhere."""
    return as_yaml(replace(experiment, run_dir=None))


def new_run(experiment: Experiment) -> Run:
    """The directory for a new run: run_dir, else runs_dir/name-NUMBER with the first free number, which is taken.

    Raises:
        UserError: if run_dir holds something, or nothing can be made there.
    """
    if experiment.run_dir is not None:
        run = Run(Path(experiment.run_dir))
        try:
            if run.exists():
                raise UserError(f"run_dir: {run.path} holds a run; give --resume to go on with it, or another run_dir")
            # a start that was cut off before config.yaml leaves these, and files that were being written
            begun = (run.environment, run.path / LOCK_NAME)
            if run.path.exists() and any(file not in begun and not is_temporary(file) for file in run.path.iterdir()):
                raise UserError(f"run_dir: {run.path} exists and is not an empty folder")
        except OSError as error:
            raise UserError(f"run_dir: {experiment.run_dir}: {error.strerror}") from error
        return run
    return free_run(Path(experiment.runs_dir), experiment.name, "runs_dir")


def free_run(parent: Path, name: str, key: str) -> Run:
    """The directory parent/name-NUMBER with the first free number, which is taken.

    Args:
        parent: need not exist.
        name: of the run.
        key: the config key that says where, for messages.

    Raises:
        UserError: if nothing can be made there.
    """
    if parent.exists() and not parent.is_dir():
        raise UserError(f"{key}: {parent} is not a folder")
    number = 1
    while True:
        path = parent / f"{name}-{number}"
        with writing(f"{key}: {parent}"):
            try:
                path.mkdir(parents=True)
                return Run(path)
            except FileExistsError:
                number += 1
