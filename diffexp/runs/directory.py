"""The run directory: the files of a run, from which it can be reproduced.

config.yaml        the resolved config; `diffexp train RUN/config.yaml` trains the same run
environment.json   versions, git commit, device, Slurm ids
status.json        the state and the step of the run
metrics.jsonl      one JSON object per line: "step" and the metrics logged at it
checkpoints/  samples/  scores/  validation/  evaluations/
drawings/          images of `diffexp sample`; not part of the training, so nothing compares or reports them
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
from diffexp.errors import EnvironmentFailure, UserError, file_error, writing
from diffexp.runs.records import read_object, typed
from diffexp.system.files import atomic_write_text, is_temporary, require_folder
from diffexp.system.locks import LOCK_NAME

log = logging.getLogger(__name__)

# The types of the values that diffexp reads from status.json and environment.json.
_STATUS = {"state": (str,), "step": (int,), "steps": (int,), "seconds": (int, float), "error": (str,), "reason": (str,)}
_ENVIRONMENT = {"run_id": str, "earlier": list, "plugins": list}

# A launcher starts a node's other processes with the same command line; they read the run's directory from here.
RUN_VARIABLE = "DIFFEXP_RUN_DIR"

_GRID = re.compile(r"step-(\d+)-([\w-]+)\.png")  # a config allows these characters in a grid sampler's name


class Run:
    """The directory of one run.

    Args:
        path: the directory, which need not exist yet.
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
        self.validation = path / "validation"

    def exists(self) -> bool:
        """Whether the directory holds a run."""
        return self.config.is_file()

    def describe(self, config: str, environment: Mapping[str, Any]) -> None:
        """Create the directory if needed, and write config.yaml and environment.json.

        The environment gets a permanent "run_id": $WANDB_RUN_ID, which W&B's agents and diffexp's sweeps set, else a
        random one. The key "earlier" holds the environments of earlier starts, and "saved" whether the run has saved a
        checkpoint; see `record_save`.

        Args:
            config: the text of config.yaml.
            environment: versions and machine, as plain data.

        Raises:
            UserError: if the directory cannot be written, or environment.json is damaged.
            EnvironmentFailure: if the disk is full or failing.
        """
        with writing(f"run_dir: {self.path}"):
            self.path.mkdir(parents=True, exist_ok=True)
            before = self.read_environment()
            earlier = [*before.pop("earlier", []), before] if before else []
            run_id = before.get("run_id") or os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
            self._write_environment({"run_id": run_id, **environment, "earlier": earlier})
            # last: this file marks the directory as a run
            atomic_write_text(self.config, config)

    def changes(self) -> list[dict[str, Any]]:
        """Return the changes of the config with which the run was resumed, each with its "step" and "key".

        Raises:
            UserError: if environment.json is damaged.
        """
        changes: list[dict[str, Any]] = self.read_environment().get("changes", [])
        whole = isinstance(changes, list) and all(
            isinstance(each, dict) and type(each.get("step")) is int and isinstance(each.get("key"), str)
            for each in changes
        )
        if not whole:
            raise UserError(f"{self.environment}: changes: expected a list of changes, got another value. Restore it.")
        return changes

    def record_save(self) -> None:
        """Record in environment.json that the run has saved a checkpoint, so that its loss is noticed.

        Raises:
            OSError: if it cannot be written.
            UserError: if environment.json is damaged.
        """
        environment = self.read_environment()
        if environment and not environment.get("saved"):
            self._write_environment({**environment, "saved": True})

    def _write_environment(self, environment: Mapping[str, Any]) -> None:
        atomic_write_text(self.environment, json.dumps(environment, indent=2) + "\n")

    def discard_if_empty(self) -> None:
        """Remove the directory if it is empty, and then its parent if that is empty."""
        with suppress(OSError):  # rmdir removes only empty directories
            self.path.rmdir()
            self.path.parent.rmdir()

    def write_status(self, state: str, step: int, steps: int, **more: Any) -> None:
        """Replace status.json.

        Args:
            state: "running", "finished", "interrupted" or "failed".
            step: steps done.
            steps: steps of the complete run.
            more: further keys.

        Raises:
            OSError: if it cannot be written.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        require_folder(self.path)
        status = {"state": state, "step": step, "steps": steps, "updated": now, "pid": os.getpid(), **more}
        atomic_write_text(self.status, json.dumps(status, indent=2) + "\n")

    def read_status(self) -> dict[str, Any]:
        """Return the content of status.json without values of other types; {} if it is missing or damaged."""
        try:
            return typed(read_object(self.status), _STATUS)
        except (UserError, EnvironmentFailure):
            return {}

    def seconds(self) -> float:
        """Return the seconds of training that status.json records."""
        seconds: float = self.read_status().get("seconds", 0.0)
        return seconds

    def id(self) -> str | None:
        """Return the "run_id" of environment.json, or None if it is missing or damaged."""
        try:
            run_id: str | None = self.read_environment().get("run_id")
        except (UserError, EnvironmentFailure):
            return None
        return run_id

    def read_environment(self) -> dict[str, Any]:
        """Return the content of environment.json, or {} before the run has started.

        Raises:
            UserError: if it is damaged.
            EnvironmentFailure: if the disk is failing.
        """
        if not os.path.lexists(self.environment):
            return {}
        remedy = "Restore it, or start a new run."
        environment = read_object(self.environment, remedy)
        for key, kind in _ENVIRONMENT.items():
            if not isinstance(environment.get(key, kind()), kind):
                raise UserError(
                    f"{self.environment}: {key}: expected a {kind.__name__}, got {environment[key]!r}. {remedy}"
                )
        return environment


def grids(folder: Path) -> list[tuple[int, str, Path]]:
    """Return (step, sampler's name, file) of each grid that training drew into a folder, sorted by file name."""
    files = (file for file in sorted(folder.glob("step-*.png")) if file.is_file())
    matches = ((_GRID.fullmatch(file.name), file) for file in files)
    return [(int(match[1]), match[2], file) for match, file in matches if match is not None]


def config_text(experiment: Experiment) -> str:
    """Return the text of config.yaml: the resolved config without run_dir, so that it can be trained elsewhere."""
    return as_yaml(replace(experiment, run_dir=None))


def new_run(experiment: Experiment) -> Run:
    """Choose the directory of a new run: run_dir, else the first free runs_dir/name-NUMBER, which it creates.

    Raises:
        UserError: if run_dir is not empty, or the directory cannot be created.
        EnvironmentFailure: if the disk is full or failing.
    """
    if experiment.run_dir is not None:
        run = Run(Path(experiment.run_dir))
        try:
            if run.exists():
                raise UserError(
                    f"run_dir: expected a new or empty directory, got {run.path}, which holds a run. Give --resume, or "
                    "another run_dir."
                )
            # a start that was killed before it wrote config.yaml leaves these, and temporary files
            started = (run.environment, run.path / LOCK_NAME)
            if run.path.exists() and any(file not in started and not is_temporary(file) for file in run.path.iterdir()):
                raise UserError(
                    f"run_dir: expected a new or empty directory, got {run.path}, which holds other files. Give "
                    "another run_dir."
                )
        except OSError as error:
            raise file_error(error, f"run_dir: {experiment.run_dir}: cannot be read: {error.strerror}.") from error
        return run
    return free_run(Path(experiment.runs_dir), experiment.name, "runs_dir")


def free_run(parent: Path, name: str, key: str) -> Run:
    """Create the directory parent/name-NUMBER with the first free number.

    Args:
        parent: the directory of runs, which need not exist.
        name: the name of the run.
        key: the config key that sets `parent`, for messages.

    Raises:
        UserError: if the directory cannot be created.
        EnvironmentFailure: if the disk is full or failing.
    """
    if parent.exists() and not parent.is_dir():
        raise UserError(f"{key}: expected a directory, got the file {parent}. Give another {key}.")
    number = 1
    while True:
        path = parent / f"{name}-{number}"
        with writing(f"{key}: {parent}"):
            try:
                path.mkdir(parents=True)
                return Run(path)
            except FileExistsError:
                number += 1
