"""Replicates: trials that differ only in the seed."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

from diffexp.config.load import load_experiment
from diffexp.config.plugins import require_plugins
from diffexp.config.trial import Trial
from diffexp.errors import UserError
from diffexp.statistics.power import mean_interval
from diffexp.sweeps.metric_names import metric_problem, usual_metric
from diffexp.sweeps.resolve import Resolved, resolve
from diffexp.sweeps.spec.command import Command
from diffexp.sweeps.spec.file import SweepFile, parse_sweep
from diffexp.sweeps.spec.parameters import nested
from diffexp.sweeps.spec.seeds import SEED, with_seed_values

# Keys of the experiment that the sweep sets for each replicate.
_OURS = ("name", "runs_dir")
_HELD_OUT = "val/bits_per_dim"


def with_seeds(sweep: SweepFile) -> SweepFile:
    """Return the sweep with `seeds: N` replaced by N values of the key seed, the first of which is the config's.

    Raises:
        UserError: if the config of the first setting is invalid.
    """
    if sweep.seeds is None:
        return sweep
    first = _first_setting(sweep).seed
    content = {**sweep.content, "command": sweep.command.words()}
    return parse_sweep(with_seed_values(content, range(first, first + sweep.seeds)), sweep.source)


def without_shared_seed(sweep: SweepFile) -> SweepFile:
    """Return the sweep without a seed in the command, if the seed is swept.

    An extended sweep may have both: its first trials have the seed of the command.
    """
    swept = next((each.values for each in sweep.parameters if each.key == SEED), None)
    if swept is None or not any(text.startswith(f"{SEED}=") for text in sweep.command.overrides):
        return sweep
    return parse_sweep(with_seed_values(sweep.content, swept), sweep.source)


def race_as_grid(sweep: SweepFile, first: int) -> SweepFile:
    """Return a race as a grid, with the seeds from `first` that run_cap allows for each setting."""
    assert sweep.run_cap is not None
    settings = math.prod(len(parameter.values) for parameter in sweep.parameters)
    content = {key: value for key, value in sweep.content.items() if key != "run_cap"}
    seeds = range(first, first + sweep.run_cap // settings)
    return parse_sweep(with_seed_values({**content, "method": "grid"}, seeds), sweep.source)


def _first_setting(sweep: SweepFile) -> Resolved:
    require_plugins(sweep.command.plugins, f"{sweep.source}: command")
    trial = Trial(sweep.name, nested({each.path: each.values[0] for each in sweep.parameters}))
    try:
        return next(resolve(sweep.command, [trial]))
    except UserError as error:
        raise UserError(f"{sweep.source}: {trial.name}: {error}") from error


def replicates_of(config: str, overrides: Sequence[str], plugins: Sequence[str], seeds: int) -> tuple[SweepFile, Path]:
    """Return the sweep that trains a config with several seeds, and its directory runs_dir/NAME-seeds.

    Args:
        config: a YAML file, a run's directory, or the name of a ready config.
        overrides: ``key=value`` texts.
        plugins: modules to import.
        seeds: the number of replicates.

    Raises:
        UserError: if the config is invalid or sets run_dir.
    """
    experiment = load_experiment(config, overrides)
    if experiment.run_dir is not None:
        raise UserError(
            f"run_dir: expected none with --seeds, got {experiment.run_dir}. The replicates are in the directory "
            "runs_dir/NAME-seeds; set name or runs_dir instead."
        )
    name = re.sub(r"[^A-Za-z0-9._-]", "-", experiment.name) + "-seeds"
    shared = [text for text in overrides if text.partition("=")[0] not in _OURS]
    content = {
        "method": "grid",
        "name": name,
        "command": Command("train", config, name, tuple(shared), tuple(plugins)).words(),
        "metric": {"name": _metric(Resolved(experiment)), "goal": "minimize"},
        "seeds": seeds,
    }
    return parse_sweep(content, f"{config} --seeds {seeds}"), Path(experiment.runs_dir) / name


def _metric(resolved: Resolved) -> str:
    """Return the metric of replicates: the loss on held-out images if it is logged, else a score, else the loss."""
    if metric_problem(_HELD_OUT, resolved) is None:
        return _HELD_OUT
    return "train/loss" if resolved.experiment.score is None else usual_metric(resolved)


def mean_text(metric: str, values: Sequence[float], seeds: int) -> str:
    """Format the mean of replicates with half the width of its 95 % Student t interval.

    Args:
        metric: the name of the values.
        values: those of the replicates that have one.
        seeds: the number of replicates.
    """
    of = f"{seeds} seeds" if len(values) == seeds else f"{len(values)} of {seeds} seeds"
    if not values:
        return f"{metric}: no value, {of}"
    mean, half = mean_interval(values)
    if half is None:
        return f"{metric}: {mean:.4g}, {of}"
    return f"{metric}: {mean:.4g} ± {half:.2g}, {of} (mean and its 95 % t-interval)"
