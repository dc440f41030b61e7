"""The project's goals on one H100, compared with the results of a run of the kit."""

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import samples
import steps

Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Goal:
    """A goal: a limit for one measured value.

    Attributes:
        what: description of the value.
        limit: limit for the value.
        at_least: whether the limit is a minimum instead of a maximum.
        form: format specification of the value.
        value: reads the value from the results, by file name; raises KeyError if it was not measured.
    """

    what: str
    limit: float
    at_least: bool
    form: str
    value: Callable[[Results], float]

    def row(self, results: Results) -> list[str]:
        """Format the goal as a row: description, limit, value, and whether it is reached."""
        limit = f"{'at least' if self.at_least else 'at most'} {self.limit:{self.form}}"
        try:
            value = self.value(results)
        except KeyError:
            return [self.what, limit, "", "not measured"]
        reached = value >= self.limit if self.at_least else value <= self.limit
        return [self.what, limit, f"{value:{self.form}}", "yes" if reached else "MISSED"]


def _faster(name: str, base: str, ours: str) -> Callable[[Results], float]:
    """The speed of the fastest of our candidates relative to a base, as a quotient of medians."""

    def value(results: Results) -> float:
        seconds, bases = results[name]["seconds"], results[name]["bases"]
        # compiled candidates are measured later, together with new measurements of the benchmark's base
        own_base = bases[base] == seconds[base]
        factors = [
            statistics.median(bases[each] if own_base else seconds[base]) / statistics.median(seconds[each])
            for each in seconds
            if each.startswith(ours)
        ]
        if not factors:
            raise KeyError(ours)
        return max(factors)

    return value


def _overhead(results: Results) -> float:
    over = results["sampling-cifar10-64"]["over_bare_calls"]
    found = [value for name, value in over.items() if name.endswith("CUDA graphs")]
    if not found:
        raise KeyError("CUDA graphs")
    return max(found)


GOALS = [
    Goal(
        *("training at batch 128, × diffusers' script at its defaults", 2.0, True, ".2f"),
        _faster("train_step-cifar10-128", steps.DIFFUSERS, steps.OURS),
    ),
    Goal(
        *("training at batch 128, × diffusers' script in bf16", 1.2, True, ".2f"),
        _faster("train_step-cifar10-128", steps.DIFFUSERS_BF16, steps.OURS),
    ),
    Goal(
        *("DDIM-50 of 64 images, × diffusers' pipeline", 2.5, True, ".2f"),
        _faster("sampling-cifar10-64", samples.DIFFUSERS, "ours, bf16"),
    ),
    Goal("a sampler's overhead with CUDA graphs", 0.03, False, ".1%", _overhead),
    Goal(
        *("the Trainer over the bare loop at 128 images", 0.05, False, ".1%"),
        lambda results: float(results["framework-cifar10-128"]["added"]),
    ),
    Goal(
        *("seconds for 50,000 DDIM-50 images, scored", 300, False, ".0f"),
        lambda results: min(results["scoring-cifar10"]["many"].values()),
    ),
]


def read(folder: Path, device: str) -> dict[str, Any]:
    """Read the results in a folder, by file name without the device."""
    suffix = f"-{device}.json"
    return {path.name.removesuffix(suffix): json.loads(path.read_text()) for path in folder.glob(f"*{suffix}")}


def rows(folder: Path, device: str) -> list[list[str]]:
    """The rows of all goals."""
    results = read(folder, device)
    return [goal.row(results) for goal in GOALS]
