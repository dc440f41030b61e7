"""Merge layers of values to a typed config. Every error names the source and the key, and suggests a correction."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin

from omegaconf import MISSING, DictConfig, OmegaConf, SCMode
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from diffexp.config.registry import Component
from diffexp.config.renamed import current_name
from diffexp.config.select import LayerNode, hints_of, is_optional, select, without_none
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
    root, skeleton, sources = _merged(defaults, layers)
    try:
        config = OmegaConf.to_object(root)
    except MissingMandatoryValue:
        _require_all(root, skeleton)
        raise
    assert isinstance(config, type(defaults))
    return Merged(config, sources)


@defer_exit()
def merge_values(defaults: Any, layers: Sequence[Layer], missing: str) -> dict[str, Any]:
    """Merge as `merge` does; return nested plain data, with the text `missing` for a required key without a value.

    Raises:
        UserError: for an unknown key or name, or a value of the wrong type.
    """
    values = OmegaConf.to_container(_merged(defaults, layers)[0], structured_config_mode=SCMode.DICT)
    filled: dict[str, Any] = _with(values, missing)
    return filled


def _with(value: Any, missing: str) -> Any:
    """Return nested plain data with a text for what is missing."""
    if isinstance(value, dict):
        return {key: _with(each, missing) for key, each in value.items()}
    return missing if value == MISSING else value


def _merged(defaults: Any, layers: Sequence[Layer]) -> tuple[DictConfig, Any, dict[str, str]]:
    """Return (the merged config, its dataclass instance with defaults, the last source of each key)."""
    layers = [replace(layer, values=copy.deepcopy(layer.values)) for layer in layers]
    skeleton = select(defaults, [LayerNode(layer.source, "", layer.values) for layer in layers])
    root = _structured(skeleton)
    leaves = [_leaf(skeleton, layer, path, value) for layer in layers for path, value in _leaves(layer.values)]
    sources: dict[str, str] = {}
    for batch in _batches(leaves):
        _merge_batch(root, skeleton, batch)
        for leaf in batch:
            key = ".".join(leaf.path)
            sources.pop(key, None)  # keys are in the order of their last source
            sources[key] = leaf.source
    return root, skeleton, sources


@defer_exit()
def as_dict(config: Any) -> dict[str, Any]:
    """Return a typed config as nested plain data."""
    return asdict(config)


@defer_exit()
def as_yaml(config: Any) -> str:
    """Return a typed config as YAML with every key."""
    return OmegaConf.to_yaml(asdict(config))


def differing(first: dict[str, Any], second: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted key, value in first, value in second) for the keys that differ; `MISSING` where absent."""
    for key in [*first, *(key for key in second if key not in first)]:
        one, two = first.get(key, MISSING), second.get(key, MISSING)
        if isinstance(one, dict) and isinstance(two, dict):
            yield from differing(one, two, f"{prefix}{key}.")
        elif one != two:
            yield f"{prefix}{key}", one, two


_known: dict[Any, DictConfig] = {}


def _structured(skeleton: Any) -> DictConfig:
    """Return a typed DictConfig of a dataclass instance: a copy of a cached one, because creating one is slow."""
    key = _identity(skeleton)
    if key not in _known:
        try:
            _known[key] = OmegaConf.structured(skeleton)
        except OmegaConfBaseException as error:  # never for built-in schemas
            raise UserError(f"a plugin's schema cannot be used: {str(error).splitlines()[0]}") from error
    return copy.deepcopy(_known[key])


def _identity(node: Any) -> Any:
    """Return a hashable key that is equal for nodes with the same types and values."""
    if is_dataclass(node):
        return type(node), *(_identity(getattr(node, each.name)) for each in fields(node))
    if isinstance(node, dict):
        return tuple((key, _identity(value)) for key, value in node.items())
    return (type(node), tuple(map(_identity, node)) if isinstance(node, list) else node)


# --- values ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Leaf:
    """A value for one key, converted to the key's type."""

    source: str
    path: tuple[str, ...]
    value: Any
    hint: Any

    @property
    def nested(self) -> Any:
        nested = self.value
        for part in reversed(self.path):
            nested = {part: nested}
        return nested

    def refused(self, value: Any) -> UserError:
        given = "null" if value is None else repr(value)
        is_one = get_origin(without_none(self.hint)) is list and isinstance(value, (str, int, float))
        remedy = f" Write [{value}]." if is_one else ""
        return UserError(f"{self.source}: {'.'.join(self.path)}: expected {describe(self.hint)}, got {given}.{remedy}")


def _batches(leaves: Sequence[_Leaf]) -> Iterator[list[_Leaf]]:
    """Yield the leaves in order, in batches of independent keys, which can be merged at once."""
    batch: list[_Leaf] = []
    taken: set[tuple[str, ...]] = set()  # paths of the batch and their parents
    given: set[tuple[str, ...]] = set()
    for leaf in leaves:
        above = {leaf.path[:length] for length in range(1, len(leaf.path))}
        if leaf.path in taken or above & given:
            yield batch
            batch, taken, given = [], set(), set()
        batch.append(leaf)
        taken |= {leaf.path, *above}
        given.add(leaf.path)
    yield batch


def _merge_batch(root: DictConfig, skeleton: Any, batch: Sequence[_Leaf]) -> None:
    together: dict[str, Any] = {}
    for leaf in batch:
        _restore(root, skeleton, leaf.path)
        node = together
        for part in leaf.path[:-1]:
            node = node.setdefault(part, {})
        node[leaf.path[-1]] = leaf.value
    try:
        root.merge_with(together)
    except (OmegaConfBaseException, ValueError, TypeError):
        for leaf in batch:  # find the wrong one
            try:
                root.merge_with(leaf.nested)
            except (OmegaConfBaseException, ValueError, TypeError) as error:
                raise leaf.refused(leaf.value) from error
        raise


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
    if "${" in str(value):
        raise UserError(f"{where}: expected a value, got a reference with '${{'. Write the value itself.")
    leaf = _Leaf(layer.source, path, value, hint)
    if get_origin(hint) is list and isinstance(value, list) and any(isinstance(each, (list, dict)) for each in value):
        raise leaf.refused(value)  # OmegaConf accepts anything nested as an element of a list
    try:
        return replace(leaf, value=_fitted(value, hint, layer, path))
    except _UnwrittenError:
        raise UserError(f"{leaf.refused(value)} Quote the value.") from None


def _restore(root: DictConfig, skeleton: Any, path: tuple[str, ...]) -> None:
    """Restore the defaults of a section that an earlier layer set to null, because this layer sets keys of it."""
    node = root
    for part in path[:-1]:
        skeleton = skeleton.get(part) if isinstance(skeleton, dict) else getattr(skeleton, part, None)
        if not is_dataclass(skeleton) and not isinstance(skeleton, dict):
            return
        if node[part] is None:
            node[part] = OmegaConf.structured(skeleton)
        node = node[part]


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
    if _wants_text(hint) and isinstance(value, (bool, int, float)):
        if layer.texts is None or place not in layer.texts:
            raise _UnwrittenError(f"the spelling of {value!r} is unknown")
        return layer.texts[place]
    return value


def _wants_text(hint: Any) -> bool:
    return hint is str or (get_origin(hint) is Literal and all(isinstance(each, str) for each in get_args(hint)))


def _hint_at(node: Any, path: tuple[str, ...]) -> Any:
    """Return the type declared at a path below `node`, or None for an unknown key."""
    hint: Any = type(node)
    for part in path:
        if isinstance(node, dict):
            hint, node = get_args(hint)[1] if get_args(hint) else Any, node.get(part)
        elif is_dataclass(node) and part in (hints := hints_of(node)) and hasattr(node, part):
            hint, node = hints[part], getattr(node, part)
        elif is_dataclass(hint) or is_dataclass(without_none(hint)):
            return None
        else:
            return hint  # the path continues below a value, so the value is wrong
        hint = without_none(hint) if is_dataclass(node) or isinstance(node, dict) else hint
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
    if get_origin(hint) is Literal:
        return f"one of {', '.join(str(each) for each in get_args(hint))}"
    if get_origin(hint) is list:
        return f"a list, each element {describe(get_args(hint)[0], bounds)}"
    return names.get(hint, "a mapping of keys to values").rstrip()


def _require_all(root: DictConfig, skeleton: Any) -> None:
    for key in sorted(OmegaConf.missing_keys(root)):
        hint = without_none(_hint_at(skeleton, tuple(key.split("."))))
        if isinstance(hint, type) and issubclass(hint, Component):
            raise MissingKeyError(
                f"config: {key}.name: required key is missing. Use one of {', '.join(hint.registry.names)}."
            )
        raise MissingKeyError(f"config: {key}: required key is missing. Set it in the config or with {key}=VALUE.")
