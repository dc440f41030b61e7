"""Merge layers of values to a typed config. Every error names the source and the key, and suggests a correction."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, make_dataclass, replace
from functools import cache
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffexp.config.fields import copied
from diffexp.config.registry import Component
from diffexp.config.renamed import current_name
from diffexp.config.select import LayerNode, hints_of, is_optional, is_union, select, without_none
from diffexp.config.sources import Layer
from diffexp.config.suggest import unknown_key
from diffexp.config.yaml_text import Place
from diffexp.errors import UserError
from diffexp.system.signals import defer_exit

Schema = TypeVar("Schema")


@dataclass(frozen=True)
class Merged(Generic[Schema]):
    """A typed config, and for each key that was set, the source that set it last."""

    config: Schema
    sources: dict[str, str]

    def where(self, key: str) -> str:
        """Return ``"source: key"`` for messages about a key; the source of a default is "default"."""
        related = [
            source
            for given, source in self.sources.items()
            if given == key or given.startswith(f"{key}.") or key.startswith(f"{given}.")
        ]
        return f"{related[-1] if related else 'default'}: {key}"


class MissingKeyError(UserError):
    """A required key has no value."""


@defer_exit()
def merge(defaults: Schema, layers: Sequence[Layer]) -> Merged[Schema]:
    """Merge layers, later over earlier, over a dataclass instance with the defaults, which is modified.

    Where the schema has a `Component`, the last ``name:`` decides its schema; a text alone is such a name. Values of an
    earlier choice are kept where the last choice has the same key, and dropped elsewhere.

    Raises:
        UserError: for an unknown key or name, a value of the wrong type, or a missing required key.
    """
    config, skeleton, sources = _merged(defaults, layers)
    _require_all(config, skeleton)
    return Merged(config, sources)


@defer_exit()
def merge_values(defaults: Any, layers: Sequence[Layer], missing: str) -> dict[str, Any]:
    """Merge as `merge` does; return nested plain data, with the text `missing` for a required key without a value.

    Raises:
        UserError: for an unknown key or name, or a value of the wrong type.
    """
    filled: dict[str, Any] = _with(as_dict(_merged(defaults, layers)[0]), missing)
    return filled


def _with(value: Any, missing: str) -> Any:
    """Return nested plain data with a text for what is missing."""
    if isinstance(value, dict):
        return {key: _with(each, missing) for key, each in value.items()}
    return missing if value == MISSING else value


def _merged(defaults: Schema, layers: Sequence[Layer]) -> tuple[Schema, Schema, dict[str, str]]:
    """Return (the merged config, its dataclass instance with defaults, the last source of each key)."""
    layers = [replace(layer, values=copied(layer.values)) for layer in layers]
    skeleton = select(defaults, [LayerNode(layer.source, "", layer.values) for layer in layers])
    leaves = [_leaf(skeleton, layer, path, value) for layer in layers for path, value in _leaves(layer.values)]
    config = copied(skeleton)
    sources: dict[str, str] = {}
    for leaf in leaves:
        _set(config, skeleton, leaf)
        key = ".".join(leaf.path)
        sources.pop(key, None)  # keys are in the order of their last source
        sources[key] = leaf.source
    return config, skeleton, sources


@defer_exit()
def as_dict(config: Any) -> dict[str, Any]:
    """Return a typed config as nested plain data."""
    return asdict(config)


@defer_exit()
def as_yaml(config: Any) -> str:
    """Return a typed config as YAML with every key."""
    return "".join(_section_yaml(each.name, getattr(config, each.name)) for each in fields(config))


def _section_yaml(name: str, section: Any) -> str:
    """Return one section as YAML, which takes 10 ms for all of a config; the trials of a sweep share most of them."""
    known = (name, repr(section))
    if known not in _yamls:
        if len(_yamls) > 10_000:
            _yamls.clear()
        _yamls[known] = OmegaConf.to_yaml({name: _plain(section)})
    return _yamls[known]


_yamls: dict[tuple[str, str], str] = {}


def _plain(section: Any) -> Any:
    if isinstance(section, dict):
        return {key: _plain(value) for key, value in section.items()}
    return asdict(section) if is_dataclass(section) and not isinstance(section, type) else section


def differing(first: dict[str, Any], second: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted key, value in first, value in second) for the keys that differ; `MISSING` where absent."""
    for key in [*first, *(key for key in second if key not in first)]:
        one, two = first.get(key, MISSING), second.get(key, MISSING)
        if isinstance(one, dict) and isinstance(two, dict):
            yield from differing(one, two, f"{prefix}{key}.")
        elif one != two:
            yield f"{prefix}{key}", one, two


# --- values ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Leaf:
    """A value for one key, converted to the key's type."""

    source: str
    path: tuple[str, ...]
    value: Any
    hint: Any

    def refused(self, value: Any) -> UserError:
        given = "null" if value is None else repr(value)
        given = given if len(given) <= 200 else f"{given[:200]}…"
        is_one = get_origin(without_none(self.hint)) is list and isinstance(value, (str, int, float))
        remedy = f" Write [{value}]." if is_one else ""
        return UserError(f"{self.source}: {'.'.join(self.path)}: expected {describe(self.hint)}, got {given}.{remedy}")


def _set(config: Any, skeleton: Any, leaf: _Leaf) -> None:
    """Set the value of a leaf in a config; a section that an earlier layer set to null gets its defaults back.

    Raises:
        UserError: if the value has the wrong type.
    """
    node, hint = config, _declared(config, type(config), leaf.path[0])
    for part, name in itertools.pairwise(leaf.path):
        skeleton, below = _get(skeleton, part), _get(node, part)
        if not (is_dataclass(skeleton) or isinstance(skeleton, dict)):
            raise leaf.refused(leaf.value)  # it has no keys
        if below is None or below == MISSING:  # MISSING: a sampler without a name
            below = copied(skeleton)
            _put(node, part, below)
        node, hint = below, _declared(below, hint, name)
    name = leaf.path[-1]
    if leaf.value == MISSING:
        return  # as OmegaConf merges it
    if is_dataclass(without_none(hint)) or get_origin(without_none(hint)) is dict:
        if leaf.value == {}:
            return
        if leaf.value is not None or not is_optional(hint):
            raise leaf.refused(leaf.value)
        _put(node, name, None)
    else:
        _put(node, name, _converted(leaf, hint))


def _declared(node: Any, hint: Any, name: str) -> Any:
    """Return the declared type of a key of a dataclass instance, or of a dict of type `hint`."""
    return get_args(without_none(hint))[1] if isinstance(node, dict) else hints_of(node)[name]


def _get(node: Any, name: str) -> Any:
    return node.get(name) if isinstance(node, dict) else getattr(node, name, None)


def _put(node: Any, name: str, value: Any) -> None:
    if isinstance(node, dict):
        node[name] = value
    else:
        setattr(node, name, value)


def _converted(leaf: _Leaf, hint: Any) -> Any:
    """Return the value of a leaf as OmegaConf converts it to the key's type.

    Raises:
        UserError: if OmegaConf refuses it.
    """
    if type(leaf.value) is without_none(hint):
        return leaf.value  # which OmegaConf would return
    known = (hint, repr(leaf.value))  # repr distinguishes 1, 1.0 and True
    if known not in _conversions:
        try:
            typed = OmegaConf.structured(_typed(hint))
            typed.merge_with({"value": leaf.value})
            _conversions[known] = OmegaConf.to_object(typed).value  # type: ignore[union-attr]  # a Typed
        except (OmegaConfBaseException, ValueError, TypeError) as error:
            raise leaf.refused(leaf.value) from error
    return copied(_conversions[known])


_conversions: dict[tuple[Any, str], Any] = {}  # OmegaConf takes a millisecond, and sweeps repeat their values


@cache
def _typed(hint: Any) -> type:
    return make_dataclass("Typed", [("value", hint, MISSING)])


def _leaves(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*path, str(key)))
        else:
            yield (*path, str(key)), value


def _leaf(skeleton: Any, layer: Layer, path: tuple[str, ...], value: Any) -> _Leaf:
    where = f"{layer.source}: {'.'.join(path)}"
    hint = _hint_at(skeleton, path)
    renamed = current_name(path) if hint is None else None
    if renamed is not None:
        raise UserError(f"{where}: this key was renamed. Write {'.'.join((*path[:-1], renamed))}.")
    if hint is None:
        raise UserError(f"{where}: {unknown_key(skeleton, path)}")
    if any("\0" in each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)):
        raise UserError(f"{where}: expected text without NUL characters, got {value!r}.")
    if "${" in str(value):
        raise UserError(f"{where}: expected a value, got a reference with '${{'. Write the value itself.")
    leaf = _Leaf(layer.source, path, value, hint)
    if get_origin(hint) is list and isinstance(value, list) and any(isinstance(each, (list, dict)) for each in value):
        raise leaf.refused(value)  # OmegaConf accepts anything nested as an element of a list
    try:
        return replace(leaf, value=_fitted(value, hint, layer, path))
    except _UnwrittenError:
        raise UserError(f"{leaf.refused(value)} Quote the value.") from None


class _UnwrittenError(TypeError):
    """A number whose spelling is unknown, for a key that takes a string."""


def _fitted(value: Any, hint: Any, layer: Layer, place: Place) -> Any:
    """Convert a value to its key's type: 1e5 steps are an integer, and a string keeps its spelling.

    Raises:
        _UnwrittenError: for a number where a string is expected, if its spelling is unknown.
    """
    hint = without_none(hint)
    if get_origin(hint) is list and isinstance(value, list):
        return [_fitted(each, get_args(hint)[0], layer, (*place, i)) for i, each in enumerate(value)]
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if is_union(hint) and type(value) in get_args(hint):
        return value
    if _wants_text(hint) and isinstance(value, (bool, int, float)):
        if layer.texts is None or place not in layer.texts:
            raise _UnwrittenError(f"the spelling of {value!r} is unknown")
        return layer.texts[place]
    return value


def _wants_text(hint: Any) -> bool:
    if is_union(hint):
        return str in get_args(hint)
    return hint is str or (get_origin(hint) is Literal and all(isinstance(each, str) for each in get_args(hint)))


def _hint_at(node: Any, path: tuple[str, ...]) -> Any:
    """Return the type declared at a path below `node`, or None for an unknown key."""
    hint: Any = type(node)
    for part in path:
        if isinstance(node, dict):
            hint, node = get_args(without_none(hint))[1] if get_args(hint) else Any, node.get(part)
        elif is_dataclass(node) and part in (hints := hints_of(node)) and hasattr(node, part):
            hint, node = hints[part], getattr(node, part)
        elif is_dataclass(hint) or is_dataclass(without_none(hint)):
            return None
        else:
            return hint  # the path continues below a value, so the value is wrong
    return hint


def describe(hint: Any, bounds: str = "") -> str:
    """Describe a type in words: "an integer >= 1 or null".

    Args:
        hint: the type.
        bounds: of its numbers: ">= 1".
    """
    if isinstance(hint, type) and issubclass(hint, Component):
        return f"the name of a known {hint.registry.group} ({', '.join(hint.registry.names)}), or a mapping of its keys"
    if get_origin(hint) is dict and without_none(get_args(hint)[1]) not in (str, Any):
        return "a mapping of names to samplers, such as {mine: ddim}"
    names = {int: f"an integer {bounds}", float: f"a number {bounds}", bool: "true or false", str: "a string"}
    if is_optional(hint):
        return f"{describe(without_none(hint), bounds)} or null"
    if is_union(hint):
        return " or ".join(describe(each, bounds) for each in get_args(hint))
    if get_origin(hint) is Literal:
        return f"one of {', '.join(str(each) for each in get_args(hint))}"
    if get_origin(hint) is list:
        return f"a list, each element {describe(get_args(hint)[0], bounds)}"
    return names.get(hint, "a mapping of keys to values").rstrip()


def _require_all(config: Any, skeleton: Any) -> None:
    for key in sorted(_missing(config)):
        hint = without_none(_hint_at(skeleton, tuple(key.split("."))))
        if isinstance(hint, type) and issubclass(hint, Component):
            raise MissingKeyError(
                f"config: {key}.name: required key is missing. Use one of {', '.join(hint.registry.names)}."
            )
        raise MissingKeyError(f"config: {key}: required key is missing. Set it in the config or with {key}=VALUE.")


def _missing(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the keys without a value; an element of a list counts for its list."""
    values = node if isinstance(node, dict) else {each.name: getattr(node, each.name) for each in fields(node)}
    for name, value in values.items():
        if is_dataclass(value) or isinstance(value, dict):
            yield from _missing(value, f"{prefix}{name}.")
        elif value == MISSING or (isinstance(value, list) and MISSING in value):
            yield f"{prefix}{name}"
