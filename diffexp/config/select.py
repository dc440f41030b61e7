"""Select the schema, by its name, at each choice of a config."""

import functools
import itertools
import operator
import types
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import MISSING

from diffexp.config.registry import Component
from diffexp.errors import UserError


@dataclass
class LayerNode:
    """The values of one layer for the node at `key`."""

    source: str
    key: str
    values: dict[str, Any]

    def below(self, name: str, hint: Any) -> "list[LayerNode]":
        """Return the values for the node's field `name`: a list of one, or empty.

        A text for a component is its name, and becomes a mapping.
        """
        value = self.values.get(name)
        if isinstance(value, str) and is_component(hint):
            value = self.values[name] = {"name": value}
        key = f"{self.key}.{name}" if self.key else name
        return [LayerNode(self.source, key, value)] if isinstance(value, dict) else []


def select(node: Any, parts: list[LayerNode]) -> Any:
    """Set the chosen schema at every choice below the dataclass instance `node`, and return `node`.

    Removes the keys of a choice that a later part replaced from the parts.

    Raises:
        UserError: for an unknown name, or a choice without a name.
    """
    hints = hints_of(node)
    for each in fields(node):
        below = [part for given in parts for part in given.below(each.name, hints[each.name])]
        setattr(node, each.name, _arrange_value(hints[each.name], getattr(node, each.name), below))
    return node


def _arrange_value(hint: Any, value: Any, parts: list[LayerNode]) -> Any:
    hint = without_none(hint)
    if get_origin(hint) is dict:
        names = dict.fromkeys([*value, *(name for part in parts for name in part.values)])
        inner = get_args(hint)[1]
        arranged = {}
        for name in names:
            below = [part for given in parts for part in given.below(name, inner)]
            if name in value or below:
                arranged[name] = _arrange_value(inner, value.get(name, MISSING), below)
        return arranged
    if not is_dataclass(hint):
        return value
    assert isinstance(hint, type)
    if value is None and not parts:
        return None
    if issubclass(hint, Component):
        return _choose(hint, MISSING if value is None else value, parts)
    return select(hint() if value is None else value, parts)


def _choose(base: type[Component], current: Any, parts: list[LayerNode]) -> Any:
    chosen = [part for part in parts if "name" in part.values]
    for part in chosen:
        try:
            base.registry.schema(part.values["name"])
        except UserError as error:
            raise UserError(f"{part.source}: {part.key}.name: {error}") from None
    if chosen and (current == MISSING or chosen[-1].values["name"] != current.name):
        final = base.registry.schema(chosen[-1].values["name"])(name=chosen[-1].values["name"])
    else:
        final = current
    if final == MISSING:
        if parts:
            known = ", ".join(base.registry.names)
            raise UserError(f"{parts[-1].source}: {parts[-1].key}.name: required key is missing. Use one of {known}.")
        return MISSING
    _drop_abandoned(base, current, final, parts)
    return select(final, parts)


def _drop_abandoned(base: type[Component], current: Any, final: Component, parts: list[LayerNode]) -> None:
    """Remove the keys of a choice that a later layer replaced from the parts, unless the last choice has the same key.

    A key is the same if it has the same type: the networks of two models may be of different groups.
    """
    kept = set(_hints(type(final)).items())
    active = set() if current == MISSING else set(_hints(type(current)).items())
    # one source at a time: the order of the keys on a command line has no meaning
    for _, group in itertools.groupby(parts, key=lambda part: part.source):
        together = list(group)
        for part in together:
            if "name" in part.values:
                active = set(_hints(base.registry.schema(part.values["name"])).items())
        for part in together:
            for key, _ in active - kept:
                part.values.pop(key, None)


def hints_of(node: Any) -> dict[str, Any]:
    """Return the types of a dataclass instance's fields."""
    return _hints(type(node))


_hints: Callable[[Any], dict[str, Any]] = cache(get_type_hints)


def is_component(hint: Any) -> bool:
    """Whether a type is a `Component`, or one or None."""
    hint = without_none(hint)
    return isinstance(hint, type) and issubclass(hint, Component)


@cache
def is_optional(hint: Any) -> bool:
    """Whether a type is ``X | None``."""
    return is_union(hint) and type(None) in get_args(hint)


def is_union(hint: Any) -> bool:
    """Whether a type is ``X | Y``."""
    return get_origin(hint) in (Union, types.UnionType)


@cache
def without_none(hint: Any) -> Any:
    """Return X for ``X | None``; return any other type unchanged."""
    if not is_optional(hint):
        return hint
    return functools.reduce(operator.or_, (each for each in get_args(hint) if each is not type(None)))
