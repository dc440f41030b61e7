"""The groups of runs that `diffexp compare` compares, from its arguments."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from diffexp.errors import UserError
from diffexp.reports.groups import differing_settings, grouped
from diffexp.runs.directory import Run
from diffexp.runs.reader import RunReader, in_runs, read_runs
from diffexp.sweeps.plan import Sweep
from diffexp.sweeps.results import Setting, settings
from diffexp.sweeps.spec.file import SweepMetric


@dataclass(frozen=True)
class SettingRuns:
    """The runs of a setting of a sweep.

    Attributes:
        key: identifies the setting among those of other sweeps.
        name: its name.
        runs: its runs, which differ only in seeds.
    """

    key: str
    name: str
    runs: list[RunReader]


@dataclass(frozen=True)
class Side:
    """One argument of the command.

    Attributes:
        argument: the argument.
        runs: its runs.
        settings: the settings of a sweep that has several; [] for runs that differ only in seeds.
        metric: the metric of its sweep; None without one.
        incomplete: the names of the settings of which a trial has no result.
    """

    argument: str
    runs: list[RunReader]
    settings: list[SettingRuns]
    metric: SweepMetric | None = None
    incomplete: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The name of its runs in tables."""
        return grouped(self.runs)[0].label if self.metric is None and not self.settings else self.argument


def find_sides(arguments: Sequence[str]) -> list[Side]:
    """Read the runs that the arguments name.

    Args:
        arguments: each a run, a sweep, runs that are separated by commas, or a pattern of runs. A missing path is also
            looked for in runs/.

    Raises:
        UserError: if one names no runs, runs of a group differ in other keys than seeds, or a run is in two groups.
    """
    found = [(argument, *_paths(argument)) for argument in arguments]
    every = [path for _, paths, _ in found for path in paths]
    for path in every:
        if every.count(path) > 1:
            raise UserError(f"{path}: expected each run in one group, got it {every.count(path)} times. Remove one.")
    readers = dict(zip(every, read_runs(every), strict=True))
    return [_side(argument, [readers[path] for path in paths], sweep) for argument, paths, sweep in found]


def _paths(argument: str) -> tuple[list[Path], Sweep | None]:
    """Return the run directories of an argument, and its sweep if it names one."""
    path = in_runs(Path(argument))
    if (path / "plan.json").is_file():
        sweep = Sweep(path)
        trials = [path for setting in settings(sweep) for path in _started(sweep, setting)]
        if not trials:
            raise UserError(f"{path}: expected a sweep with a started trial, got one without. Run the sweep first.")
        return trials, sweep
    if path.exists():
        return [path], None
    if re.search(r"[*?[]", argument):
        found = sorted(glob(argument) or glob(str(Path("runs") / argument)))
        paths = [Path(each) for each in found if Run(Path(each)).exists()]
        if not paths:
            raise UserError(f"{argument}: expected a pattern of run directories, got one that matches none.")
        return paths, None
    several = [in_runs(Path(each)) for each in _split(argument)]
    for each in several:
        if (each / "plan.json").is_file():
            raise UserError(
                f"{argument}: expected runs in a list, got the sweep {each}. Give it as a group of its own."
            )
    return several, None


def _split(argument: str) -> list[str]:
    """Split at the commas between paths; the name of a trial has commas, too."""
    found, pieces = [], argument.split(",")
    while pieces:
        lengths = (n for n in range(1, len(pieces) + 1) if in_runs(Path(",".join(pieces[:n]))).exists())
        length = next(lengths, 1)
        found.append(",".join(pieces[:length]))
        pieces = pieces[length:]
    return found


def _started(sweep: Sweep, setting: Setting) -> list[Path]:
    """Return the runs of a setting's trials that have started and not failed."""
    runs = [sweep.trial(row.index).run for row in setting.rows if row.record.state != "failed"]
    return [run.path for run in runs if run is not None and run.exists()]


def _side(argument: str, runs: list[RunReader], sweep: Sweep | None) -> Side:
    if sweep is None:
        return Side(argument, _checked(argument, runs), [])
    by_path = {run.path: run for run in runs}
    known = settings(sweep)
    found = [
        SettingRuns(json.dumps(setting.parameters, sort_keys=True), setting.name, members)
        for setting in known
        # a trial that has started since its run was looked for is not compared
        if (members := [by_path[path] for path in _started(sweep, setting) if path in by_path])
    ]
    incomplete = tuple(setting.name for setting in known if not setting.is_complete)
    return Side(argument, runs, found if len(found) > 1 else [], sweep.file.metric, incomplete)


def _checked(argument: str, runs: list[RunReader]) -> list[RunReader]:
    if len(grouped(runs)) > 1:
        keys = differing_settings(runs)
        if keys:
            raise UserError(
                f"{argument}: expected runs that differ only in seeds, got runs that differ in {', '.join(keys)}. Give "
                "them as separate groups."
            )
        raise UserError(f"{argument}: expected runs with different seeds, got the same seed twice. Remove one.")
    return runs
