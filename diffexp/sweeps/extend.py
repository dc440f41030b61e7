"""Extensions of a planned sweep: more seeds, more values or more trials, without a change to those that exist."""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from diffexp.config.trial import Trial, leaves
from diffexp.errors import UserError, did_you_mean, writing
from diffexp.sweeps.plan import Sweep, plan_content, write_sweep_file
from diffexp.sweeps.plan_file import FORMAT, extension_file, trials_content
from diffexp.sweeps.race import race_state, race_text
from diffexp.sweeps.replicates import without_shared_seed
from diffexp.sweeps.resolve import Resolved
from diffexp.sweeps.search.grid_random import cells, known_trials
from diffexp.sweeps.spec.file import SweepFile, parse_sweep
from diffexp.sweeps.spec.parameters import Parameter
from diffexp.sweeps.spec.seeds import SEED, with_seed_values
from diffexp.sweeps.validate import check_sweep
from diffexp.system.files import write_new


@dataclass(frozen=True)
class Growth:
    """The size that a sweep should have.

    Attributes:
        seeds: the number of seeds of each setting; None keeps it.
        trials: the number of trials (run_cap); None keeps it.
        values: further values of swept keys, by dotted key.
    """

    seeds: int | None = None
    trials: int | None = None
    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Extension:
    """Trials to add to a planned sweep.

    Attributes:
        sweep: the sweep as it is.
        file: the extended sweep.
        trials: the new trials; none if a search will choose their parameters.
        resolved: their configs, or a typical one.
        unknown: the number of new trials whose parameters a search will choose.
    """

    sweep: Sweep
    file: SweepFile
    trials: list[Trial]
    resolved: list[Resolved]
    unknown: int = 0

    @property
    def count(self) -> int:
        """The number of new trials."""
        return len(self.trials) + self.unknown

    def content(self) -> dict[str, Any]:
        """Return the content of its file."""
        start = len(self.sweep)
        return {
            "format": FORMAT,
            "id": self.sweep.id,
            "start": start,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "sweep": plan_content(self.file),
            **trials_content(self.trials, self.resolved, self.sweep.id, start, self.unknown),
        }

    def new_values(self) -> dict[str, list[Any]]:
        """Return the values of swept keys that no trial has had, by dotted key."""
        before = {each.key: each.values for each in self.sweep.file.parameters}
        found = {each.key: _missing(each.values, before.get(each.key, ())) for each in self.file.parameters}
        if SEED not in before and SEED in found:
            found[SEED] = found[SEED][1:]  # the first one is the config's, with which all trials have run
        return {key: values for key, values in found.items() if values}


def extension(sweep: Sweep, growth: Growth) -> Extension:
    """Return the trials that a sweep needs to grow, validated.

    Raises:
        UserError: if the sweep cannot grow so, a new trial is invalid, or the config of a trial has changed.
    """
    method, at = sweep.file.method, str(sweep.path)
    if method != "grid" and (growth.seeds is not None or growth.values):
        raise UserError(f"{at}: expected --trials for a sweep with method: {method}, got other options.")
    if growth.trials is not None and sweep.file.run_cap is None:
        raise UserError(f"--trials: expected a sweep with run_cap, got {at}, a grid of all values. Give --seeds.")
    if method == "race" and race_state(sweep).end in ("decided", "failed", "looks"):
        raise UserError(f"{at}: expected a race that has not ended, got: {race_text(sweep)}")
    existing = sweep.check_unchanged(sweep.indices)
    content = copy.deepcopy(sweep.file.content)
    if growth.trials is not None:
        if growth.trials < len(sweep):
            raise UserError(f"--trials: expected at least the {len(sweep)} trials of {at}, got {growth.trials}.")
        content["run_cap"] = growth.trials
    for key, values in growth.values.items():
        _add_values(content["parameters"], _swept(sweep, key), values)
    if growth.seeds is not None:
        content = with_seed_values(content, _seeds(sweep, growth.seeds, existing[0].seed))
        content["command"] = sweep.file.command.words()  # the existing trials may need the seed in it
    file = parse_sweep(content, at)
    if method == "grid":
        known = {_identity(each, found.seed) for each, found in zip(_trials(sweep), existing, strict=True)}
        fresh = (trial for trial in cells(file) if _identity(trial, existing[0].seed) not in known)
        trials = list(islice(fresh, None if file.run_cap is None else max(0, file.run_cap - len(sweep))))
        if not trials and next(fresh, None) is not None:
            raise UserError(f"{at}: expected a larger run_cap for more trials, got {file.run_cap}. Give --trials, too.")
    else:
        trials = known_trials(file, sweep.seed)[len(sweep) :]
    with chdir(sweep.working_directory):
        resolved = check_sweep(without_shared_seed(file), trials)
    unknown = growth.trials - len(sweep) if growth.trials is not None and method not in ("grid", "random") else 0
    return Extension(sweep, file, trials, resolved or [sweep.typical()], unknown)


def _trials(sweep: Sweep) -> Iterator[Trial]:
    for planned in sweep.trials():
        assert planned.trial is not None
        yield planned.trial


def _identity(trial: Trial, seed: int) -> str:
    """Return a text that equal trials share; one without a swept seed has the given one."""
    values = {".".join(path): value for path, value in leaves(trial.parameters)}
    return json.dumps({SEED: seed, **values}, sort_keys=True)


def _swept(sweep: Sweep, key: str) -> Parameter:
    swept = {parameter.key: parameter for parameter in sweep.file.parameters}
    if key not in swept:
        raise UserError(
            f"{sweep.path}: {key}: expected a swept key ({', '.join(swept)}), got {key}.{did_you_mean(key, swept)}"
        )
    return swept[key]


def _add_values(parameters: dict[str, Any], parameter: Parameter, values: Sequence[Any]) -> None:
    *above, last = parameter.path
    for part in above:
        parameters = parameters[part]["parameters"]
    parameters[last] = {"values": [*parameter.values, *_missing(values, parameter.values)]}


def _missing(values: Sequence[Any], known: Sequence[Any]) -> list[Any]:
    """Return the values that are not known yet."""

    def is_known(value: Any) -> bool:
        return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in known)

    return [value for value in values if not is_known(value)]


def _seeds(sweep: Sweep, count: int, of_config: int) -> list[int]:
    """Return the seeds of a sweep that grows to `count` of them: those it has, and the next higher ones."""
    known = next((list(each.values) for each in sweep.file.parameters if each.key == SEED), [of_config])
    if count < len(known):
        raise UserError(f"--seeds: expected at least the {len(known)} seeds of {sweep.path}, got {count}.")
    return [*known, *range(max(known) + 1, max(known) + 1 + count - len(known))]


def extend(sweep: Sweep, growth: Growth) -> Sweep:
    """Add trials to a planned sweep; several processes that extend it at once add none twice.

    Raises:
        UserError: as `extension`.
    """
    while True:
        added = extension(sweep, growth)
        if not added.count:
            return _with_current_file(sweep, added.resolved[0]) if added.resolved else sweep
        file = extension_file(sweep.path, sweep.extensions + 1)
        with writing(str(sweep.path)):
            is_new = write_new(file, json.dumps(added.content(), indent=1) + "\n")
            if is_new:
                return _with_current_file(sweep, added.resolved[0])
        sweep = Sweep(sweep.path)  # another process was faster


def _with_current_file(sweep: Sweep, resolved: Resolved) -> Sweep:
    """Write the sweep file of the last extension, also if another process adds one meanwhile."""
    while True:
        sweep = Sweep(sweep.path)
        write_sweep_file(sweep, resolved)
        if Sweep(sweep.path).extensions == sweep.extensions:
            return sweep
