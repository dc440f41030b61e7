"""A sweep's directory: the immutable plan, and where everything else of it lies.

plan.json     the trials: index, parameters, config digest, W&B run id; never changed
sweep.yaml    the sweep file with all overrides in it; `wandb sweep` takes it
trials/       one run directory a trial: 0003-timesteps=50,rescale=none/
records/      how each trial stands: 0003.json (and 0003.lock while it runs); asked/0003.json by bayes
logs/         what each trial printed
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

from diffexp.config.plugins import load_plugins
from diffexp.config.trial import Trial
from diffexp.errors import UserError, did_you_mean, writing
from diffexp.runs.directory import Run
from diffexp.sweeps.cost import cost_of
from diffexp.sweeps.resolve import Resolved, resolve
from diffexp.sweeps.search.grid_random import known_trials
from diffexp.sweeps.search.tpe import check_space
from diffexp.sweeps.spec.file import SweepFile, parse_sweep, read_sweep
from diffexp.sweeps.validate import check_sweep, on_other, typical
from diffexp.system.files import atomic_write_text, write_new

_PLAN = "plan.json"
_FORMAT = 2  # of plan.json; diffexp 0.1 wrote none, and its keys had other names


@dataclass(frozen=True)
class PlannedTrial:
    """A trial of a planned sweep, and where everything of it is.

    Attributes:
        index: its number.
        trial: its parameters and name; None if bayes has not been asked for it yet.
        run: its run directory; None as `trial`.
        log: what it has printed.
        state_file: its `TrialState`.
        lock: held by whoever runs it.
        asked: what bayes was asked for.
        run_id: its id in W&B; the same however often it is tried.
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
    """A planned sweep.

    Args:
        path: its directory, which holds a plan.

    Raises:
        UserError: if it does not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.plan: dict[str, Any] = json.loads((path / _PLAN).read_text())
            self.file: SweepFile = parse_sweep(self.plan["sweep"], str(path / _PLAN))
            self.seed: int = self.plan["seed"]
            self.id: str = self.plan["id"]
            self.working_directory = Path(self.plan["working_directory"])
        except FileNotFoundError as error:
            raise UserError(f"{path}: is no sweep's directory: it has no {_PLAN}") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path / _PLAN}: is damaged ({type(error).__name__})") from error
        self.logs = path / "logs"

    def __len__(self) -> int:
        """How many trials it has."""
        return int(self.plan["count"])

    @cached_property
    def indices(self) -> range:
        """The trials' numbers."""
        return range(len(self))

    def trial(self, index: int) -> PlannedTrial:
        """A trial by its number."""
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
        """All trials."""
        return [self.trial(index) for index in range(len(self))]

    def _parameters(self, index: int, asked: Path) -> Trial | None:
        if self.plan["trials"]:
            return Trial(self.file.name, self.plan["trials"][index]["parameters"])
        try:
            return Trial(self.file.name, json.loads(asked.read_text()))
        except FileNotFoundError:
            return None

    def typical(self) -> Resolved:
        """The configs of the first trial, or of one that bayes may choose.

        Raises:
            UserError: if they have become wrong since they were planned.
        """
        known = self.trial(0).trial
        return self._resolve([known or next(typical(self.file))])[0]

    def check_unchanged(self, indices: Iterable[int]) -> None:
        """See that trials still come to what was planned; not for several threads, and not of bayes' trials.

        Raises:
            UserError: if a config that they are made of has changed.
        """
        if self.plan.get("format", 1) < _FORMAT:
            raise UserError(
                f"{self.path}: was planned by diffexp 0.1, whose config keys have other names now; diffexp sweep "
                "results and status still read it. Plan the sweep file again with --out DIR."
            )
        trials = [self.plan["trials"][index] for index in indices if self.plan["trials"]]
        resolved = self._resolve([Trial(self.file.name, each["parameters"]) for each in trials])
        for each, now in zip(trials, resolved, strict=True):
            if now.digest != each["config"]:
                raise UserError(
                    f"{self.path}: trial {each['index']} ({each['name']}): its config comes to something else than "
                    "when it was planned; put back what has changed, or plan anew with --out DIR"
                )

    def _resolve(self, trials: list[Trial]) -> list[Resolved]:
        try:
            with chdir(self.working_directory):  # paths in the command mean what they meant
                load_plugins(self.file.command.plugins)
                return [resolve(self.file.command, trial) for trial in trials]
        except OSError as error:
            raise UserError(f"{self.path}: was planned in {self.working_directory}: {error.strerror}") from error

    @property
    def devices(self) -> int:
        """How many devices a trial takes on each node, at most."""
        devices: list[int] = self.plan["devices"]
        return max(devices)

    def check_index(self, index: int) -> None:
        """Refuse a number that no trial has.

        Raises:
            UserError: naming those there are.
        """
        if index not in self.indices:
            raise UserError(f"{self.path}: there is no trial {index}; they are 0 to {len(self) - 1}")


def planned(sweep: SweepFile, seed: int) -> list[tuple[Trial, Resolved]]:
    """The sweep's trials and their configs, all checked; [] for bayes.

    Raises:
        UserError: for anything wrong with them.
    """
    trials = known_trials(sweep, seed)
    resolved = check_sweep(sweep, trials)
    if sweep.method == "bayes":
        check_space(sweep)
    return list(zip(trials, resolved, strict=True))


def make_plan(sweep: SweepFile, seed: int, path: Path) -> Sweep:
    """Plan a sweep in a new directory, or take up the same plan there.

    Raises:
        UserError: for anything wrong with a trial, or if the directory holds another sweep.
    """
    if (path / _PLAN).exists():
        before = Sweep(path)
        if before.file.text() == sweep_text(sweep) and before.seed != seed:
            raise UserError(f"{path}: was planned with --seed {before.seed}; give --out DIR for another")
        if before.file.text() != sweep_text(sweep):
            raise UserError(
                f"{path}: holds another sweep, or this one before the file or its overrides were changed; "
                "give --out DIR for this one, or the directory to go on with it"
            )
        if not (path / "sweep.yaml").exists():  # whoever planned it was cut off there
            atomic_write_text(path / "sweep.yaml", sweep.text())
        return before
    trials = planned(sweep, seed)
    resolved = [each for _, each in trials] or check_sweep(sweep, list(typical(sweep)))[:1]
    works = [cost_of(each) for each in resolved] * (1 if trials else sweep.run_cap or 1)
    sweep_id = secrets.token_hex(4)
    plan = {
        "format": _FORMAT,
        "id": sweep_id,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "working_directory": os.getcwd(),
        "count": len(trials) or sweep.run_cap,
        "devices": sorted({each.devices for each in resolved}),
        "nodes": sorted({each.nodes for each in resolved}),
        "work": {
            "training": sum(work.training for work in works),
            "sampling": sum(work.sampling for work in works),
            "longest": max(work.passes for work in works),
        },
        "sweep": _content(sweep),
        "trials": [
            {
                "index": index,
                "name": trial.name,
                "parameters": trial.parameters,
                "config": configs.digest,
                "run_id": f"{sweep_id}{index:04d}",
            }
            for index, (trial, configs) in enumerate(trials)
        ],
    }
    with writing(f"{path}"):
        if not write_new(path / _PLAN, json.dumps(plan, indent=1) + "\n"):
            return make_plan(sweep, seed, path)  # another process was faster
        atomic_write_text(path / "sweep.yaml", sweep.text())
    return Sweep(path)


def sweep_text(sweep: SweepFile) -> str:
    """The sweep as it stands in a plan."""
    return parse_sweep(_content(sweep), sweep.source).text()


def _content(sweep: SweepFile) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps({**sweep.content, "command": sweep.command.words()}))
    return content


def find_sweep_file(
    file: str, target: str | None, overrides: Sequence[str], plugins: Sequence[str]
) -> tuple[SweepFile, SweepFile]:
    """A sweep file as it stands, and with what the command line changes in it.

    Raises:
        UserError: for anything wrong with it.
    """
    before = read_sweep(find_file(file))
    return before, on_other(before, target, overrides, plugins)


def find_file(name: str) -> Path:
    """The sweep file that a path, or the name of a ready sweep ("timesteps"), means.

    Raises:
        UserError: if there is none.
    """
    path = Path(name)
    if path.is_file():
        return path
    ready = {file.stem: file for file in sorted(shipped_sweeps().glob("*.yaml"))}
    if name in ready:
        return ready[name]
    known = f"ready: {', '.join(ready)}"
    raise UserError(f"{name}: no such sweep file or ready sweep ({known}).{did_you_mean(name, ready)}")


def shipped_sweeps() -> Path:
    """The folder of the ready sweeps: inside an installed package, else at the top of the checkout."""
    installed = Path(__file__).parent / "files"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "sweeps"


def open_sweep(file: str) -> Sweep:
    """The planned sweep that a directory, or a sweep file planned in the usual place, means.

    Raises:
        UserError: if there is none.
    """
    for path in (Path(file), Path("runs") / file):
        if (path / _PLAN).is_file() or (path.is_dir() and path == Path(file)):
            return Sweep(path)
    usual = usual_directory(read_sweep(find_file(file)))
    if not usual.is_dir():
        raise UserError(f"{file}: is not planned yet (there is no {usual}): diffexp sweep plan {file}")
    return Sweep(usual)


def usual_directory(sweep: SweepFile) -> Path:
    """Where a sweep goes when nothing else is said."""
    return Path("runs") / sweep.name
