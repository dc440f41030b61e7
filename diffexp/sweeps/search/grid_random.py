"""Grid and random search: their trials are functions of (file, seed, index) alone."""

import itertools
from typing import Any

from diffexp.config.trial import Trial
from diffexp.sweeps.spec.file import SweepFile
from diffexp.sweeps.spec.parameters import nested


def known_trials(sweep: SweepFile, seed: int) -> list[Trial]:
    """Return the trials of grid or random search in order; [] for Bayesian search, which chooses them one by one.

    A grid's last parameter varies fastest. Random search keeps duplicate trials, as W&B does.
    """
    if sweep.method == "grid":
        cells = itertools.product(*(parameter.values for parameter in sweep.parameters))
        chosen = itertools.islice(cells, sweep.run_cap)
        return [_trial(sweep, dict(zip(_paths(sweep), cell, strict=True))) for cell in chosen]
    if sweep.method == "random":
        return [
            _trial(sweep, {each.path: each.draw(seed, index) for each in sweep.parameters})
            for index in range(sweep.run_cap or 0)
        ]
    return []


def _paths(sweep: SweepFile) -> list[tuple[str, ...]]:
    return [parameter.path for parameter in sweep.parameters]


def _trial(sweep: SweepFile, values: dict[tuple[str, ...], Any]) -> Trial:
    return Trial(sweep.name, nested(values))
