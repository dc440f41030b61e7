"""Grid and random search: their trials are functions of (file, seed, index) alone."""

import itertools
from collections.abc import Iterator
from typing import Any

from diffexp.config.trial import Trial
from diffexp.sweeps.spec.file import SweepFile
from diffexp.sweeps.spec.parameters import nested


def known_trials(sweep: SweepFile, seed: int) -> list[Trial]:
    """Return the trials of grid or random search in order; [] for searches that choose them one by one.

    A grid's last parameter varies fastest. Random search keeps duplicate trials, as W&B does.
    """
    if sweep.method == "grid":
        return list(itertools.islice(cells(sweep), sweep.run_cap))
    if sweep.method == "random":
        return [
            _trial(sweep, {each.path: each.draw(seed, index) for each in sweep.parameters})
            for index in range(sweep.run_cap or 0)
        ]
    return []


def cells(sweep: SweepFile) -> Iterator[Trial]:
    """Yield a trial for each combination of the listed values of all parameters."""
    for cell in itertools.product(*(parameter.values for parameter in sweep.parameters)):
        yield _trial(sweep, dict(zip(_paths(sweep), cell, strict=True)))


def _paths(sweep: SweepFile) -> list[tuple[str, ...]]:
    return [parameter.path for parameter in sweep.parameters]


def _trial(sweep: SweepFile, values: dict[tuple[str, ...], Any]) -> Trial:
    return Trial(sweep.name, nested(values))
