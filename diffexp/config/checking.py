"""Checks on a typed config that need more than a type: ranges, and values that must fit one another."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from diffexp.config.experiment import Experiment
from diffexp.config.fields import range_problems
from diffexp.config.merging import Merged
from diffexp.errors import UserError


def check(merged: Merged[Any], experiment: Experiment) -> None:
    """Check every node of a config: its numbers' ranges, then its own ``problems(experiment)``.

    Raises:
        UserError: naming the source, key and problem; all problems, one a line.
    """
    found = list(_problems(merged.config, "", experiment, ranges=True))
    if not found:  # values out of range would only cause more of the others
        found = list(_problems(merged.config, "", experiment, ranges=False))
    if found:
        raise UserError("\n".join(f"{merged.where(key)}: {problem}" for key, problem in found))


def _problems(node: Any, prefix: str, experiment: Experiment, *, ranges: bool) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _problems(value, f"{prefix}{name}.", experiment, ranges=ranges)
    if not is_dataclass(node):
        return
    own = range_problems(node) if ranges else getattr(node, "problems", _no_problems)(experiment)
    for key, problem in own:
        yield f"{prefix}{key}", problem
    for each in fields(node):
        yield from _problems(getattr(node, each.name), f"{prefix}{each.name}.", experiment, ranges=ranges)


def _no_problems(_: Experiment) -> Iterator[tuple[str, str]]:
    yield from ()
