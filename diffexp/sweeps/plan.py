"""A sweep's directory: the immutable plan, and the paths of its other files.

plan.json     the trials: index, parameters, config digest, W&B run id; immutable
plan-0001.json, …  the trials that extensions have added; immutable
sweep.yaml    the sweep file with all overrides applied; valid for `wandb sweep`
trials/       one run directory per trial: 0003-timesteps=50,rescale=none/
records/      the state of each trial: 0003.json (and 0003.lock while it runs)
asked/        the parameters that Bayesian search or a race has chosen: 0003.json
looks/        the decisions of a race: 0001.json
logs/         the output of each trial
slurm/        job scripts
"""

import json
import os
import secrets
from collections.abc import Iterable, Sequence
from contextlib import chdir
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from diffexp.config.plugins import require_plugins
from diffexp.config.trial import Trial
from diffexp.errors import UserError, did_you_mean, writing
from diffexp.runs.directory import Run
from diffexp.sweeps.plan_file import FORMAT, PLAN, joined, read_extensions, trials_content
from diffexp.sweeps.replicates import race_as_grid, with_seeds, without_shared_seed
from diffexp.sweeps.resolve import Resolved, resolve
from diffexp.sweeps.search.grid_random import known_trials
from diffexp.sweeps.search.tpe import check_space
from diffexp.sweeps.spec.file import SweepFile, parse_sweep, read_sweep
from diffexp.sweeps.validate import check_sweep, on_other, typical
from diffexp.system.files import atomic_write_text, write_new


@dataclass(frozen=True)
class PlannedTrial:
    """A trial of a planned sweep, and the paths of its files.

    Attributes:
        index: the trial's number.
        trial: its parameters and name; None until Bayesian search has chosen them.
        run: its run directory; None like `trial`.
        log: the file of its output.
        state_file: the file of its `TrialState`.
        lock: the file that the process running it locks.
        asked: the file of the parameters that Bayesian search chose.
        run_id: its id in W&B, the same for every try.
    """

    index: int
    trial: Trial | None
    run: Run | None
    log: Path
    state_file: Path
    lock: Path
    asked: Path
    run_id: str


class Sweep:
    """A planned sweep, with its extensions.

    Args:
        path: its directory, which contains a plan.

    Attributes:
        plan: the content of the plan and its extensions as one.
        first: the sweep as first planned.
        file: the sweep with its extensions.

    Raises:
        UserError: if the plan or an extension is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.plan: dict[str, Any] = json.loads((path / PLAN).read_text())
            self.first: SweepFile = parse_sweep(self.plan["sweep"], str(path / PLAN))
            self.seed: int = self.plan["seed"]
            self.id: str = self.plan["id"]
            self.working_directory = Path(self.plan["working_directory"])
            joined(self.plan, [self.plan])  # raises unless it has all keys
        except FileNotFoundError as error:
            raise UserError(f"{path}: expected a sweep directory with {PLAN}, got none.") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path / PLAN} is damaged ({type(error).__name__}). Plan the sweep file again with --out DIR."
            ) from error
        self.logs = path / "logs"
        extensions = read_extensions(path, self.plan)
        self.extensions = len(extensions)
        self.plan = joined(self.plan, extensions)
        self.file = parse_sweep(self.plan["sweep"], str(path)) if extensions else self.first

    def __len__(self) -> int:
        """Return the number of trials."""
        return int(self.plan["count"])

    @cached_property
    def indices(self) -> range:
        """The indices of the trials."""
        return range(len(self))

    def trial(self, index: int) -> PlannedTrial:
        """Return a trial by its index."""
        asked = self.path / "asked" / f"{index:04d}.json"
        trial = self._parameters(index, asked)
        return PlannedTrial(
            index,
            trial,
            None if trial is None else Run(self.path / "trials" / f"{index:04d}-{trial.name}"),
            self.path / "logs" / f"{index:04d}.log",
            self.path / "records" / f"{index:04d}.json",
            self.path / "records" / f"{index:04d}.lock",
            asked,
            f"{self.id}{index:04d}",
        )

    def trials(self) -> list[PlannedTrial]:
        """Return all trials in order."""
        return [self.trial(index) for index in range(len(self))]

    def _parameters(self, index: int, asked: Path) -> Trial | None:
        if self.plan["trials"]:
            return Trial(self.file.name, self.plan["trials"][index]["parameters"])
        try:
            return Trial(self.file.name, json.loads(asked.read_text()))
        except FileNotFoundError:
            return None

    def typical(self) -> Resolved:
        """Resolve the configs of the first trial, or of one that Bayesian search may choose.

        Raises:
            UserError: if they have become invalid since planning.
        """
        known = self.trial(0).trial
        return self.resolve([known or next(typical(self.file))])[0]

    def check_unchanged(self, indices: Iterable[int]) -> list[Resolved]:
        """Verify that trials still resolve to the planned configs, and return these.

        Not thread-safe, and skips trials of Bayesian search and of races.

        Raises:
            UserError: if a config has changed since planning.
        """
        if self.plan.get("format", 1) < FORMAT:
            raise UserError(
                f"{self.path}: expected a plan with the current config keys, got one of diffexp 0.1. Plan the sweep "
                "file again with --out DIR. diffexp sweep results and status still read this plan."
            )
        trials = [self.plan["trials"][index] for index in indices if self.plan["trials"]]
        resolved = self.resolve([Trial(self.file.name, each["parameters"]) for each in trials])
        for each, now in zip(trials, resolved, strict=True):
            if now.digest != each["config"]:
                raise UserError(
                    f"{self.path}: trial {each['index']} ({each['name']}): expected the planned config, got another. "
                    "Undo the change, or plan the sweep file again with --out DIR."
                )
        return resolved

    def check_plugins(self) -> None:
        """Check that the user has named the plugins of the trials, and is in the folder that they are imported from.

        Raises:
            UserError: if not.
        """
        plugins = self.file.command.plugins
        require_plugins(plugins, str(self.path))
        if plugins and not _is_here(self.working_directory):
            raise UserError(
                f"{self.path}: its trials import {', '.join(plugins)} in the folder where they were planned, "
                f"expected {self.working_directory}, got {Path.cwd()}. Change to that folder."
            )

    def resolve(self, trials: list[Trial]) -> list[Resolved]:
        """Resolve the configs of trials, in the folder where the sweep was planned.

        Raises:
            UserError: if they are invalid.
        """
        self.check_plugins()
        try:
            with chdir(self.working_directory):  # the command's paths are relative to it
                return list(resolve(self.file.command, trials))
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot resolve the trials in {self.working_directory}, where they were planned: "
                f"{error.strerror}"
            ) from error

    @property
    def devices(self) -> int:
        """The largest number of devices per node of any trial."""
        devices: list[int] = self.plan["devices"]
        return max(devices)

    def check_index(self, index: int) -> None:
        """Check that a trial has this index.

        Raises:
            UserError: if none has.
        """
        if index not in self.indices:
            raise UserError(f"{self.path}: expected a trial from 0 to {len(self) - 1}, got {index}.")


def _is_here(folder: Path) -> bool:
    return folder.is_dir() and folder.samefile(Path.cwd())


def planned(sweep: SweepFile, seed: int) -> list[tuple[Trial, Resolved]]:
    """Return the sweep's trials and their validated configs; [] for searches that choose trials one by one.

    Args:
        sweep: the sweep, without the key `seeds`.
        seed: the seed of random search.

    Raises:
        UserError: if a trial is invalid.
    """
    trials = known_trials(sweep, seed)
    resolved = check_sweep(sweep, trials)
    if sweep.method == "bayes":
        check_space(sweep)
    return list(zip(trials, resolved, strict=True))


def make_plan(sweep: SweepFile, seed: int, path: Path) -> Sweep:
    """Plan a sweep in a new directory, or open the same plan there.

    Raises:
        UserError: if a trial is invalid, or the directory contains another sweep.
    """
    sweep = with_seeds(sweep)
    if (path / PLAN).exists():
        return _same_plan(sweep, seed, path)
    trials = planned(sweep, seed)
    resolved = [each for _, each in trials] or check_sweep(sweep, list(typical(sweep)))
    sweep_id = secrets.token_hex(4)
    unknown = 0 if trials else sweep.run_cap or 1
    plan = {
        "format": FORMAT,
        "id": sweep_id,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "first_seed": resolved[0].seed,
        "working_directory": os.getcwd(),
        "sweep": plan_content(sweep),
        **trials_content([trial for trial, _ in trials], resolved, sweep_id, 0, unknown),
    }
    with writing(f"{path}"):
        if not write_new(path / PLAN, json.dumps(plan, indent=1) + "\n"):
            return make_plan(sweep, seed, path)  # another process was faster
        made = Sweep(path)
        write_sweep_file(made, resolved[0])
    return made


def _same_plan(sweep: SweepFile, seed: int, path: Path) -> Sweep:
    """Open the plan in a directory, which must be that of this sweep."""
    before = Sweep(path)
    if before.first.text() == sweep_text(sweep) and before.seed != seed:
        raise UserError(
            f"{path}: expected --seed {before.seed}, as in the plan, got {seed}. "
            "Pass --out DIR to plan with another seed."
        )
    if before.first.text() != sweep_text(sweep):
        raise UserError(
            f"{path}: expected the plan of this sweep, got that of another file or of other overrides. "
            f"Pass --out DIR to plan this sweep, or {path} as FILE to continue the planned one. "
            "`diffexp sweep extend` adds trials to it."
        )
    if not (path / "sweep.yaml").exists():  # planning was interrupted before this file
        write_sweep_file(before, before.typical())
    return before


def write_sweep_file(sweep: Sweep, resolved: Resolved) -> None:
    """Write sweep.yaml, which `wandb sweep` accepts.

    Args:
        sweep: the planned sweep.
        resolved: a trial's config, which names the W&B project.
    """
    file, head = without_shared_seed(sweep.file), ""
    if file.method == "race":
        file = race_as_grid(file, sweep.plan["first_seed"])
        head = "# The grid of a race, which `wandb sweep` does not know, with as many seeds as run_cap allows.\n"
    atomic_write_text(sweep.path / "sweep.yaml", head + file.text(_project(file, resolved)))


def _project(sweep: SweepFile, resolved: Resolved) -> str:
    """Return the W&B project of the trials; without one in the file, `wandb sweep` would use "uncategorized"."""
    request = resolved.request
    settings = request.wandb if request is not None and request.wandb is not None else resolved.experiment.wandb
    return (
        settings.project or os.environ.get("WANDB_PROJECT") or sweep.content.get("project") or settings.project_name()
    )


def sweep_text(sweep: SweepFile) -> str:
    """Format the sweep as a plan records it."""
    return parse_sweep(plan_content(sweep), sweep.source).text()


def plan_content(sweep: SweepFile) -> dict[str, Any]:
    """Return the content of a sweep file as a plan records it."""
    content: dict[str, Any] = json.loads(json.dumps({**sweep.content, "command": sweep.command.words()}))
    return content


def find_sweep_file(
    file: str, target: str | None, overrides: Sequence[str], plugins: Sequence[str], seeds: int | None = None
) -> tuple[SweepFile, SweepFile]:
    """Read a sweep file; return it unchanged, and with the changes of the command line.

    Raises:
        UserError: if it is missing or invalid.
    """
    before = read_sweep(find_file(file))
    changed = on_other(before, target, overrides, plugins)
    if seeds is not None:
        changed = parse_sweep({**changed.content, "seeds": seeds}, changed.source)
    return before, with_seeds(changed)


def find_file(name: str) -> Path:
    """Find the sweep file of a path, or of the name of a ready sweep ("timesteps").

    Raises:
        UserError: if there is none.
    """
    path = Path(name)
    if path.is_file():
        return path
    ready = ready_sweeps()
    if name in ready:
        return ready[name]
    known = f"ready: {', '.join(ready)}"
    raise UserError(f"{name}: no such sweep file or ready sweep ({known}).{did_you_mean(name, ready)}")


def ready_sweeps() -> dict[str, Path]:
    """Return the files of the ready sweeps by name."""
    return {file.stem: file for file in sorted(shipped_sweeps().glob("*.yaml"))}


def shipped_sweeps() -> Path:
    """Return the folder of the ready sweeps: inside the installed package, else at the root of the checkout."""
    installed = Path(__file__).parent / "files"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "sweeps"


def open_sweep(file: str) -> Sweep:
    """Open the planned sweep in a directory, of the name of one in runs/, or of a sweep file in its default directory.

    Raises:
        UserError: if there is none.
    """
    path = planned_directory(file)
    if path is not None:
        return Sweep(path)
    usual = usual_directory(read_sweep(find_file(file)))
    if not usual.is_dir():
        raise UserError(f"{file}: expected a planned sweep, got no {usual}. Run diffexp sweep plan {file}.")
    return Sweep(usual)


def planned_directory(name: str) -> Path | None:
    """Return the directory of a planned sweep: `name` itself, or runs/`name`; None if there is none."""
    path = Path(name)
    if path.is_dir() or (path / PLAN).is_file():
        return path
    planned = Path("runs") / name
    return planned if not path.is_file() and (planned / PLAN).is_file() else None


def usual_directory(sweep: SweepFile) -> Path:
    """Return the default directory of a sweep."""
    return Path("runs") / sweep.name
