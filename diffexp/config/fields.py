"""Numbers with a range, declared where the field is declared."""

import math
import operator
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

Node = TypeVar("Node", bound=Any)


@dataclass(frozen=True)
class Range:
    """The values a number may take; ``None`` is no bound."""

    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None

    def problem(self, value: float) -> str | None:
        """What is wrong with ``value``, or None. NaN and infinities are always wrong."""
        if not math.isfinite(value):
            return f"must be a finite number, not {value}"
        bounds = (
            ("above", self.above, operator.gt),
            ("at least", self.at_least, operator.ge),
            ("below", self.below, operator.lt),
            ("at most", self.at_most, operator.le),
        )
        for words, bound, holds in bounds:
            if bound is not None and not holds(value, bound):
                return f"must be {words} {bound:g}, not {value}"
        return None


def absolute(node: Node, paths: Sequence[str]) -> Node:
    """A copy of a dataclass instance in which the fields of these names hold absolute paths; None stays."""
    given = {name: getattr(node, name) for name in paths}
    return replace(node, **{name: os.path.abspath(os.path.expanduser(path)) for name, path in given.items() if path})


def number(default: Any, **bounds: float) -> Any:
    """A dataclass field for a number (or a list of numbers) within the bounds of `Range`."""
    metadata = {"range": Range(**bounds)}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def range_problems(node: Any) -> Iterator[tuple[str, str]]:
    """Yield ``(field name, what is wrong)`` for the numbers of one dataclass instance."""
    assert is_dataclass(node)
    for each in fields(node):
        bounds = each.metadata.get("range", Range())
        value = getattr(node, each.name)
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(one, (int, float)) and not isinstance(one, bool):
                problem = bounds.problem(one)
                if problem is not None:
                    yield each.name, problem
                    break
