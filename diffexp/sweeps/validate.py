"""Validation of a sweep against diffexp's schemas before anything runs, so that a misspelt key costs no jobs."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffexp.config.check import check_experiment, check_request
from diffexp.config.plugins import require_plugins
from diffexp.config.schemas.common import LONGEST_TAG, wandb_tag
from diffexp.config.trial import Trial
from diffexp.errors import UserError
from diffexp.sweeps.metric_names import metric_problem, usual_metric
from diffexp.sweeps.resolve import Resolved, resolve
from diffexp.sweeps.search.grid_random import cells
from diffexp.sweeps.spec.file import SweepFile, parse_sweep
from diffexp.sweeps.spec.parameters import nested
from diffexp.system.terminal import progress_bar

# Keys that the sweep sets itself: the directory and the name of each run.
_OURS = ("run_dir", "runs_dir", "out", "name")


def check_sweep(sweep: SweepFile, trials: Sequence[Trial]) -> list[Resolved]:
    """Validate every known trial, and typical values of trials that a search will choose.

    Returns:
        The configs of the known trials.

    Raises:
        UserError: if a trial is invalid; names the file and the trial.
    """
    require_plugins(sweep.command.plugins, f"{sweep.source}: command")
    for word in sweep.command.overrides:
        if word.partition("=")[0] in _OURS:
            raise UserError(f"{sweep.source}: command: {word}: the sweep sets this key itself. Remove it.")
        for parameter in sweep.parameters:
            if parameter.key == word.partition("=")[0]:
                raise UserError(f"{sweep.source}: {word}: has no effect, because {parameter.key} is swept. Remove it.")
    for parameter in sweep.parameters:
        if parameter.path[0] in (*_OURS, "wandb"):
            raise UserError(f"{sweep.source}: parameters.{parameter.key}: the sweep sets this key itself. Remove it.")
    everything = [*trials, *typical(sweep)]
    configs = resolve(sweep.command, everything)
    found = []
    for trial in progress_bar(f"check {sweep.name}", len(everything), "trial", everything, leave=False, delay=2):
        try:
            resolved = next(configs)
            _check_available(resolved)
            problem = metric_problem(sweep.metric.name, resolved) if sweep.metric is not None else None
        except UserError as error:
            raise UserError(f"{sweep.source}: {trial.name}: {error}") from error
        if problem is not None:
            raise UserError(f"{sweep.source}: metric.name: {problem} (in {trial.name}).")
        found.append(resolved)
    return found[: len(trials)]


def _check_available(resolved: Resolved) -> None:
    if resolved.request is None:
        check_experiment(resolved.experiment)
    else:
        check_request(resolved.request, resolved.experiment)


def typical(sweep: SweepFile) -> Iterator[Trial]:
    """Yield trials that test the ends of every parameter of a search, all settings of a race, and none for a grid."""
    if sweep.method == "grid":
        return
    if sweep.method == "race":
        yield from cells(sweep)
        return
    for place in range(max(len(parameter.typical()) for parameter in sweep.parameters)):
        values = {each.path: each.typical()[place % len(each.typical())] for each in sweep.parameters}
        yield Trial(sweep.name, nested(values))


def on_other(sweep: SweepFile, target: str | None, overrides: Sequence[str], plugins: Sequence[str]) -> SweepFile:
    """Return the sweep with another config or run, further overrides and plugins.

    Another config or run is appended to the sweep's name. A score metric that it does not log is replaced by its
    default one.

    Raises:
        UserError: if they are invalid.
    """
    if target is None and not overrides and not plugins:
        return sweep
    command = sweep.command.amended(target, overrides, plugins)
    if target is not None:
        plain = re.sub(r"[^A-Za-z0-9._-]", "-", Path(target).stem)
        command = replace(command, sweep=f"{sweep.name}-{plain}")
    content: dict[str, Any] = {**sweep.content, "command": command.words()}
    if "name" in content:
        content["name"] = command.sweep
    changed = parse_sweep(content, sweep.source)
    if changed.metric is None or not changed.metric.name.startswith("score/"):
        return changed
    require_plugins(command.plugins, f"{sweep.source}: command")
    values = {each.path: each.typical()[0] for each in changed.parameters}
    (resolved,) = resolve(command, [Trial(command.sweep, nested(values))])
    if metric_problem(changed.metric.name, resolved) is None:
        return changed
    return parse_sweep({**content, "metric": {**content["metric"], "name": usual_metric(resolved)}}, sweep.source)


def notes(changed: SweepFile, before: SweepFile) -> list[str]:
    """Return lines that report what differs from the file: a changed metric, and a shortened tag in W&B."""
    found = []
    one, two, tag = before.metric, changed.metric, wandb_tag(changed.name)
    if one is not None and two is not None and one.name != two.name:
        found.append(f"metric: {one.name} → {two.name}")
    if tag != changed.name:
        found.append(f"W&B tag: {tag}, because a tag has at most {LONGEST_TAG} characters")
    return found
