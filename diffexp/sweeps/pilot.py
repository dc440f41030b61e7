"""What a planned sweep can detect, from the spread of a pilot's results or of those of its own trials."""

import json
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import fmean
from typing import Any

from scipy import special

from diffexp.config.trial import is_seed, leaves
from diffexp.errors import UserError
from diffexp.formatting import markdown_table
from diffexp.runs.directory import Run
from diffexp.runs.reader import RunReader
from diffexp.statistics.comparison import LEVEL
from diffexp.statistics.estimates import over_replicates
from diffexp.statistics.power import detectable, detectable_over_seeds
from diffexp.sweeps.plan import PlannedTrial, Sweep, planned_directory
from diffexp.sweeps.spec.file import SweepMetric
from diffexp.sweeps.state import history, read_state

_FURTHER = (1, 2, 5)  # seeds
_ROUGH = 4  # degrees of freedom
_POWER = "80 % power, two-sided 5 %"


@dataclass(frozen=True)
class Spread:
    """The spread of a metric's results.

    Attributes:
        sd: standard deviation over seeds, images included; without the effect of the seed if `paired`.
        df: its degrees of freedom.
        paired: whether the settings had the same seeds.
        image_error: the part of it that the images of a score cause; None if it is unknown.
        source: where it was measured.
    """

    sd: float
    df: float
    paired: bool
    image_error: float | None
    source: str

    def interval(self) -> tuple[float, float]:
        """Return the 95 % confidence interval of the standard deviation."""
        low, high = (float(special.chdtri(self.df, tail)) for tail in (LEVEL / 2, 1 - LEVEL / 2))
        return self.sd * (self.df / low) ** 0.5, self.sd * (self.df / high) ** 0.5

    def with_images(self, times: float) -> float:
        """Return the standard deviation with so many times the images, whose error must be below it."""
        return float((self.sd**2 - (self.image_error or 0.0) ** 2 * (1 - 1 / times)) ** 0.5)

    def __str__(self) -> str:
        low, high = self.interval()
        rough = ": rough" if self.df < _ROUGH else ""
        return (
            f"a standard deviation of {self.sd:.2g} over seeds in {self.source} (df {self.df:.0f}{rough}; "
            f"95 % interval {low:.2g} to {high:.2g})"
        )


def power_text(sweep: Sweep, pilot: str | None) -> str:
    """Say which difference a planned sweep can detect, and what more seeds or images would give.

    Args:
        sweep: the planned sweep.
        pilot: a run or a sweep with the same metric; None uses the finished trials of the sweep itself.

    Raises:
        UserError: if the pilot does not exist, or lacks the metric.
    """
    metric = sweep.file.metric
    if metric is None:
        if pilot is not None:
            raise UserError(f"--pilot: expected a sweep with a metric, got {sweep.path}, which has none.")
        return "power: unknown without a metric"
    settings, seeds = _size(sweep)
    alone = seeds < 2 and sweep.file.method in ("grid", "random")
    lines = [_NO_SEEDS] if alone else []
    spread = _spread_of_pilot(pilot, metric) if pilot is not None else _spread_of_sweep(sweep, metric)
    if isinstance(spread, Spread):
        grid = ", as a grid of run_cap trials" if sweep.file.method == "race" else ""
        return "\n".join([*lines, *_detects(spread, settings, seeds, grid)])
    return "\n".join([*lines, spread or "power: unknown; --pilot RUN|SWEEP gives the spread over seeds or images"])


_NO_SEEDS = "power: one seed for each setting cannot distinguish a difference from chance; --seeds adds seeds"


def _size(sweep: Sweep) -> tuple[int, int]:
    """Return the number of settings and the smallest number of seeds of one; of a race, the mean of its run_cap."""
    if sweep.file.method == "race":
        settings = 1
        for parameter in sweep.file.parameters:
            settings *= len(parameter.values)
        return settings, len(sweep) // settings
    if not sweep.plan["trials"]:
        return len(sweep), 1
    counts = Counter(_setting(trial) for trial in sweep.trials())
    return len(counts), min(counts.values())


def _setting(trial: PlannedTrial) -> str:
    return json.dumps({key: value for key, value in _values(trial).items() if not is_seed(key)}, sort_keys=True)


def _values(trial: PlannedTrial) -> dict[str, Any]:
    assert trial.trial is not None
    return {".".join(path): value for path, value in leaves(trial.trial.parameters)}


def _detects(spread: Spread, settings: int, seeds: int, grid: str) -> list[str]:
    """Return the lines about what a sweep of this size detects."""
    if settings == 1:
        return [f"power: one setting, so there is nothing to compare; {spread}"]
    lines = [] if seeds > 1 else [f"power: from {spread}:"]
    if seeds > 1:
        pairs = " over all pairs" if settings > 2 else ""
        found = _smallest(spread.sd, seeds, settings, spread)
        lines.append(
            f"detects: differences of {found:.2g} between two of {settings} settings with {seeds} seeds each{grid} "
            f"({_POWER}{pairs}), from {spread}"
        )
    counts = [seeds, *(seeds + more for more in _FURTHER)]
    rows = [
        [str(count), str(count * settings), f"{_smallest(spread.sd, count, settings, spread):.2g}"]
        for count in counts
        if count > 1
    ]
    lines.append(markdown_table(["seeds", "trials", "smallest difference"], rows).rstrip("\n"))
    if spread.image_error is not None and seeds > 1:
        lines.append(_more_images(spread, spread.image_error, settings, seeds))
    return lines


def _more_images(spread: Spread, error: float, settings: int, seeds: int) -> str:
    """Return the line about more images, which reduce the part of the spread that the images cause."""
    if error >= spread.sd:
        return (
            f"images: the standard error of one score ({error:.2g}) is no smaller than this spread. So most of it is "
            "common to all trainings, which share the starting noise, and more images would change little"
        )
    more = [f"{times}×: {_smallest(spread.with_images(times), seeds, settings, spread):.2g}" for times in (2, 4)]
    return (
        f"images: at most {error:.2g} of this spread is the error of one score; the smallest difference with more "
        f"images, and {seeds} seeds, is at best {', '.join(more)}"
    )


def _smallest(sd: float, seeds: int, settings: int, spread: Spread) -> float:
    return detectable_over_seeds(sd, seeds, settings, paired=spread.paired)


# --- the spread ----------------------------------------------------------------------------------


def _spread_of_pilot(name: str, metric: SweepMetric) -> Spread | str:
    """Return the spread of a pilot, or the text about a single run, which has none over seeds."""
    directory = planned_directory(name)
    folder = next((path for path in (Path(name), Path("runs") / name) if (path / "config.yaml").is_file()), None)
    if folder is not None:
        return _single_run(Run(folder), name, metric)
    if directory is None:
        raise UserError(f"--pilot: expected a run or a planned sweep, got {name}, which is neither.")
    spread = _spread_of_sweep(Sweep(directory), metric)
    if spread is None:
        raise UserError(
            f"--pilot: expected finished trials with {metric.name}, two or more of one setting, got none in {name}."
        )
    return spread


def _spread_of_sweep(sweep: Sweep, metric: SweepMetric) -> Spread | None:
    """Return the residual spread of a sweep's finished trials; None if they do not determine it."""
    values: dict[str, dict[Hashable, float]] = {}
    errors = []
    for trial in sweep.trials():
        if trial.trial is None or trial.run is None or read_state(trial).state != "done":
            continue
        logged = history(trial, metric)
        if not logged or not -inf < logged[-1] < inf:
            continue
        seeds = {key: value for key, value in _values(trial).items() if is_seed(key)}
        seed = json.dumps(seeds or {"seed": sweep.plan.get("first_seed", 0)}, sort_keys=True)
        values.setdefault(_setting(trial), {})[seed] = logged[-1]
        errors.append(_image_error(trial.run, logged[-1]))
    found = over_replicates(list(values.values()))
    if found is None or found.sd is None:
        return None
    known = [error for error in errors if error is not None]
    image_error = fmean(error**2 for error in known) ** 0.5 if known and len(known) == len(errors) else None
    return Spread(found.sd, found.df, found.test.startswith("paired"), image_error, str(sweep.path))


def _image_error(run: Run, value: float) -> float | None:
    """Return the standard error that the images of a run's score cause; None if the value is no score."""
    try:
        scores = RunReader(run.path, run.path.name).scores
    except UserError:  # without a readable config; the error of the images is only an addition
        return None
    for score in scores:
        if score.value == value and score.spread is not None:
            return float(score.spread / score.blocks**0.5)
    return None


def _single_run(run: Run, name: str, metric: SweepMetric) -> str:
    """Say what the images of a single run's score allow."""
    logged = RunReader(run.path, name).series(metric.name)
    if not logged:
        raise UserError(f"--pilot: expected a run that has logged {metric.name}, got {name}.")
    error = _image_error(run, logged[-1][1])
    if error is None:
        return f"power: {name} is one run, which has no spread over seeds; give a sweep with several seeds"
    parts = [f"{times}× {detectable(error * (2 / times) ** 0.5, inf):.2g}" for times in (1, 2, 4)]
    return (
        f"power: {name} is one run, which has no spread over seeds. The error of its images ({error:.2g}), if it is "
        f"not common to two trainings, hides their differences below {parts[0].partition(' ')[2]} ({_POWER}); with "
        f"more images: {', '.join(parts[1:])}"
    )
