"""Compare two runs bit for bit."""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffexp.runs.directory import grids

# Parts of a checkpoint that describe its origin, and Lightning's counts of starts. The metrics are compared row by row.
_ASIDE = ("config", "data", "run_id", "metrics", "epoch", "loops.fit_loop.epoch_progress")


@dataclass(frozen=True)
class Comparison:
    """The comparison of one kind of content of two runs.

    Attributes:
        name: the kind of content, with the number of items.
        difference: "" if the runs are equal bit for bit, else their first difference.
    """

    name: str
    difference: str

    def __str__(self) -> str:
        return f"{self.name}: {self.difference or 'equal'}"


def compare_checkpoints(before: dict[str, Any], now: dict[str, Any]) -> Comparison:
    """Compare all numbers of two checkpoints: weights, averaged weights and optimiser."""
    one = {name: value for name, value in _numbers(before) if not name.startswith(_ASIDE)}
    two = {name: value for name, value in _numbers(now) if not name.startswith(_ASIDE)}
    name = f"checkpoint ({len(one)} tensors and numbers)"
    if missing := sorted(set(one) ^ set(two)):
        return Comparison(name, f"{len(missing)} exist in only one of them, first {missing[0]}")
    differing = [key for key in one if not _equal(one[key], two[key])]
    if not differing:
        return Comparison(name, "")
    weights = [key for key in differing if key.startswith("state_dict.")]
    largest = max((_distance(one[key], two[key]) for key in weights), default=0.0)
    return Comparison(name, f"{len(differing)} differ, first {differing[0]}; weights differ by at most {largest:.2g}")


def compare_metrics(before: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]]) -> Comparison:
    """Compare all logged rows."""
    name = f"metrics ({len(before)} rows)"
    for one, two in zip(before, now, strict=False):
        for key in sorted({*one, *two}):
            if key not in one or key not in two or not _equal(one[key], two[key]):
                values = f"{one.get(key, 'nothing')} then, {two.get(key, 'nothing')} now"
                return Comparison(name, f"differ from step {one['step']}, first {key}: {values}")
    return Comparison(name, "" if len(before) == len(now) else f"{len(now)} rows now")


def compare_pictures(before: Path, now: Path, step: int, samplers: Collection[str]) -> Comparison:
    """Compare the files of all grids that training drew with some samplers up to a step.

    Args:
        before: samples/ of the recorded run.
        now: samples/ of the repeated run.
        step: the last step to compare.
        samplers: the samplers' names in the recorded config.
    """
    drawn = [(at, file) for at, name, file in grids(before) if at <= step and name in samplers]
    side_by_side = {before / f"step-{at:08d}.png" for at, _ in drawn}
    pictures = sorted({file for _, file in drawn} | {file for file in side_by_side if file.is_file()})
    differing = [file.name for file in pictures if _bytes(file) != _bytes(now / file.name)]
    difference = f"{len(differing)} differ, first {differing[0]}" if differing else ""
    return Comparison(f"sample grids ({len(pictures)})", difference)


def _numbers(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _numbers(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, (list, tuple)):
        for index, value in enumerate(content):
            yield from _numbers(value, f"{name}.{index}")
    elif isinstance(content, (Tensor, bool, int, float)):
        yield name, content


def _equal(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    return bool(one == two) or (one != one and two != two)  # NaN equals NaN


def _distance(one: Any, two: Any) -> float:
    if not isinstance(one, Tensor) or not isinstance(two, Tensor) or one.shape != two.shape:
        return math.inf
    return (one.double() - two.double()).abs().max().item() if one.numel() else 0.0


def _bytes(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError:
        return None
