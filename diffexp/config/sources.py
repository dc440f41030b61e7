"""Where a config comes from: YAML files on a common base, then ``key=value`` overrides; later wins."""

import ast
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from diffexp.config.renamed import current_name, with_current_names
from diffexp.config.yaml_text import Place, Texts, read
from diffexp.errors import UserError, did_you_mean

BASE_KEY = "base"
COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Layer:
    """Nested values from one source, a file's path or the command line.

    Attributes:
        texts: how the source wrote its numbers, truth values and nulls, by their places in `values`: a key that wants a
            text gets it as written, "007" and not 7. None where there is no writing, as in JSON and Python.
    """

    source: str
    values: dict[str, Any]
    texts: Texts | None = None


def stored_layer(source: str, values: dict[str, Any], texts: Texts | None) -> Layer:
    """The layer of what diffexp has written, maybe an earlier version."""
    names = {place: (*place[:-1], current_name(place) or place[-1]) for place in texts or {} if place}
    return Layer(source, with_current_names(values), texts and {names.get(at, at): text for at, text in texts.items()})


def shipped_configs() -> Path:
    """The folder of the ready configs: inside an installed package, else at the top of the checkout."""
    spec = importlib.util.find_spec("diffexp")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def find_config(name: str) -> Path:
    """The file that `name` means: a file, a run directory's config.yaml, or a ready config ("digits").

    Raises:
        UserError: if there is none.
    """
    path = Path(name)
    try:
        for file in (path / "config.yaml", path):
            if file.is_file():
                return file
    except OSError as error:  # a name too long for the file system
        raise UserError(f"{name}: {error.strerror}") from error
    ready = _ready_configs()
    plain = name.removeprefix("configs/").removesuffix(".yaml")
    if plain in ready:
        return ready[plain]
    if path.is_dir():
        raise UserError(f"{name}: a folder without config.yaml is not a run")
    raise UserError(
        f"{name}: no such config file, run directory or ready config (ready: {', '.join(ready)})."
        f"{did_you_mean(plain, ready)}"
    )


def file_layers(path: Path) -> list[Layer]:
    """The layers of a YAML file: those of the files in its ``base:`` list first, then its own.

    ``base:`` holds paths relative to the file that names them, or names of ready configs.

    Raises:
        UserError: for a file that cannot be read, is no YAML mapping, or is its own base.
    """
    return _file_layers(path, within=[])


def _file_layers(path: Path, within: Sequence[Path]) -> list[Layer]:
    resolved = path.resolve()
    if resolved in within:
        chain = " → ".join(str(each) for each in [*within[within.index(resolved) :], resolved])
        raise UserError(f"{path}: {BASE_KEY}: the file is its own base ({chain})")
    values, texts = read_yaml(path)
    bases = values.pop(BASE_KEY, [])
    if isinstance(bases, str):
        bases = [bases]
    if not isinstance(bases, list) or not all(isinstance(each, str) for each in bases):
        raise UserError(f"{path}: {BASE_KEY}: must be a list of paths, not {bases!r}")
    layers = []
    for base in bases:
        layers += _file_layers(_find_base(path, base), [*within, resolved])
    of_run = path.name == "config.yaml" and path.with_name("environment.json").is_file()
    return [*layers, stored_layer(str(path), values, texts) if of_run else Layer(str(path), values, texts)]


def _find_base(path: Path, base: str) -> Path:
    ready = _ready_configs()
    file = path.parent / base
    if file.is_file():
        return file
    if base in ready:
        return ready[base]
    raise UserError(
        f"{path}: {BASE_KEY}: there is no file {file} and no ready config {base!r}.{did_you_mean(base, ready)}"
    )


def _ready_configs() -> dict[str, Path]:
    """The ready configs by name."""
    folder = shipped_configs()
    return {str(file.relative_to(folder).with_suffix("")): file for file in sorted(folder.rglob("*.yaml"))}


def read_yaml(path: Path) -> tuple[dict[str, Any], Texts]:
    """The mapping in a YAML file, as `parse_yaml` gives it.

    Raises:
        UserError: if it cannot be read or holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no text, so no config; for a run's, give its directory") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> tuple[dict[str, Any], Texts]:
    """The mapping that a YAML text from `source` holds, and how its scalars were written. An empty text holds {}.

    Raises:
        UserError: if it is no YAML, or no mapping.
    """
    try:
        values, texts = read(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{source}: cannot be read as YAML: {error}") from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise UserError(f"{source}: must hold a mapping of keys to values")
    return values, texts


def override_layer(text: str) -> Layer:
    """The layer of one ``key=value`` of the command line; the key may be dotted.

    Raises:
        UserError: if it has no '=', no key, or a value that cannot be read.
    """
    key, equals, value = text.partition("=")
    parts = key.split(".")
    if not equals:
        raise UserError(f"{COMMAND_LINE}: {text!r} is not of the form key=value")
    if not all(parts):
        raise UserError(f"{COMMAND_LINE}: {text!r} has an empty key")
    nested, texts = parse_value(value, key)
    for part in reversed(parts):
        nested = {part: nested}
    return Layer(COMMAND_LINE, nested, {(*parts, *place): written for place, written in texts.items()})


def parse_value(text: str, key: str) -> tuple[Any, Texts]:
    """A value of the command line, in Python's writing (True, None, {'lr': 0.1}) or YAML's (true, null, {lr: 0.1}).

    W&B's agent passes the former.

    Returns:
        The value, and how its scalars were written.

    Raises:
        UserError: if it is neither.
    """
    try:
        as_python = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return _parse_yaml_value(text, key)
    numeric_keys = isinstance(as_python, dict) and not all(isinstance(name, str) for name in as_python)
    if numeric_keys or isinstance(as_python, (bool, int, float)):
        return _parse_yaml_value(text, key)  # which keeps the keys as texts
    value = _plain(as_python, key)
    try:
        as_yaml, texts = _parse_yaml_value(text, key)
    except UserError:
        return value, {}
    # Python decides what a value is, as '\\n' in quotes is another text in YAML, and YAML how a number was written
    return value, {place: written for place, written in texts.items() if _at(value, place) == _at(as_yaml, place)}


def _parse_yaml_value(text: str, key: str) -> tuple[Any, Texts]:
    try:
        return read(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{COMMAND_LINE}: {key}: {text!r} cannot be read as a value") from error


def _at(value: Any, place: Place) -> Any:
    """What nested data hold at a place; a missing one is nowhere equal to anything."""
    for step in place:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return object()
    return value


def _plain(value: Any, key: str) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(each, key) for each in value]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {name: _plain(each, key) for name, each in value.items()}
    raise UserError(f"{COMMAND_LINE}: {key}: a config holds numbers, texts, lists and mappings, not {value!r}")
