"""Read the layers of a config: YAML files and their bases, then ``key=value`` overrides. Later layers win."""

import ast
import importlib.util
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

from diffexp.config.renamed import current_name, with_current_names
from diffexp.config.yaml_text import Place, Texts, read
from diffexp.errors import UserError, did_you_mean, file_error

BASE_KEY = "base"
COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Layer:
    """Nested values from one source: a file or the command line.

    Attributes:
        source: path of the file, or "command line".
        values: the nested values.
        texts: spelling of the source's numbers, booleans and nulls, by their place in `values`. A key that takes a
            string gets this spelling, "007" and not 7. None for a source without spelling, such as JSON and Python.
    """

    source: str
    values: dict[str, Any]
    texts: Texts | None = None


def stored_layer(source: str, values: dict[str, Any], texts: Texts | None) -> Layer:
    """Return the layer of values that diffexp, possibly an earlier version, has written."""
    names = {place: (*place[:-1], current_name(place) or place[-1]) for place in texts or {} if place}
    return Layer(source, with_current_names(values), texts and {names.get(at, at): text for at, text in texts.items()})


def shipped_configs() -> Path:
    """Return the folder of the ready configs: inside an installed package, else at the root of the checkout."""
    spec = importlib.util.find_spec("diffexp")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def find_config(name: str) -> Path:
    """Find the file that `name` denotes: a file, a run directory's config.yaml, or a ready config ("digits").

    Raises:
        UserError: if there is none.
    """
    path = Path(name)
    try:
        for file in (path / "config.yaml", path):
            if file.is_file():
                return file
    except OSError as error:  # a name too long for the file system
        raise file_error(error, f"{name}: cannot be read: {error.strerror}.") from error
    ready = ready_configs()
    plain = name.removeprefix("configs/").removesuffix(".yaml")
    if plain in ready:
        return ready[plain]
    if path.is_dir():
        raise UserError(f"{name}: expected a run directory with config.yaml, got another folder.")
    raise UserError(
        f"{name}: no such config file, run directory or ready config.{did_you_mean(plain, ready)} List the ready "
        "configs with: diffexp config list."
    )


def file_layers(path: Path) -> list[Layer]:
    """Return the layers of a YAML file: those of the files in its ``base:`` list first, then its own.

    ``base:`` lists paths relative to the file that names them, or names of ready configs.

    Raises:
        UserError: for a file that cannot be read, is not a YAML mapping, or is its own base.
    """
    return _file_layers(path, within=[])


def _file_layers(path: Path, within: Sequence[Path]) -> list[Layer]:
    resolved = path.resolve()
    if resolved in within:
        chain = " → ".join(str(each) for each in [*within[within.index(resolved) :], resolved])
        raise UserError(f"{path}: {BASE_KEY}: expected another file, got the file itself: {chain}.")
    values, texts = read_yaml(path)
    bases = values.pop(BASE_KEY, [])
    if isinstance(bases, str):
        bases = [bases]
    if not isinstance(bases, list) or not all(isinstance(each, str) for each in bases):
        raise UserError(f"{path}: {BASE_KEY}: expected a list of paths, got {bases!r}.")
    layers = []
    for base in bases:
        layers += _file_layers(_find_base(path, base), [*within, resolved])
    of_run = path.name == "config.yaml" and path.with_name("environment.json").is_file()
    return [*layers, stored_layer(str(path), values, texts) if of_run else Layer(str(path), values, texts)]


def _find_base(path: Path, base: str) -> Path:
    ready = ready_configs()
    file = path.parent / base
    if file.is_file():
        return file
    if base in ready:
        return ready[base]
    raise UserError(
        f"{path}: {BASE_KEY}: expected a file or a ready config, got {base!r} (no file {file})."
        f"{did_you_mean(base, ready)}"
    )


def ready_configs() -> dict[str, Path]:
    """Return the ready configs by name."""
    return _configs_in(shipped_configs())


@cache
def _configs_in(folder: Path) -> dict[str, Path]:
    return {str(file.relative_to(folder).with_suffix("")): file for file in sorted(folder.rglob("*.yaml"))}


def description(file: Path) -> str:
    """Return the first sentence of the comment at the start of a YAML file; "" without a comment.

    Raises:
        OSError: if it cannot be read.
    """
    lines = itertools.takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
    return re.split(r"\.(?=\s+[A-Z]|$)", " ".join(line.lstrip("# ") for line in lines), maxsplit=1)[0]


def read_yaml(path: Path) -> tuple[dict[str, Any], Texts]:
    """Read the mapping in a YAML file, in the form of `parse_yaml`.

    Raises:
        UserError: if it cannot be read or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise file_error(error, f"{path}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8 text, got binary data. For a run, give its directory.") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> tuple[dict[str, Any], Texts]:
    """Parse a YAML text from `source` to a mapping and the spelling of its scalars. An empty text gives {}.

    Raises:
        UserError: if it is not YAML or not a mapping.
    """
    try:
        values, texts = read(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{source}: cannot be read as YAML: {error}") from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise UserError(f"{source}: expected a mapping of keys to values, got {values!r:.60}.")
    return values, texts


@lru_cache(maxsize=256)  # every trial of a sweep has the same overrides
def override_layer(text: str) -> Layer:
    """Return the layer of one ``key=value`` on the command line; the key may be dotted.

    Raises:
        UserError: if it has no '=', an empty key, or a value that cannot be parsed.
    """
    key, equals, value = text.partition("=")
    parts = key.split(".")
    if not equals:
        raise UserError(f"{COMMAND_LINE}: expected key=value, got {text!r}.")
    if not all(parts):
        raise UserError(f"{COMMAND_LINE}: expected a non-empty key, got {text!r}.")
    nested, texts = parse_value(value, key)
    for part in reversed(parts):
        nested = {part: nested}
    return Layer(COMMAND_LINE, nested, {(*parts, *place): written for place, written in texts.items()})


def parse_value(text: str, key: str) -> tuple[Any, Texts]:
    """Parse a value in Python syntax (True, None, {'lr': 0.1}) or YAML syntax (true, null, {lr: 0.1}).

    W&B's agent passes Python syntax.

    Returns:
        The value and the spelling of its scalars.

    Raises:
        UserError: if it is neither.
    """
    try:
        as_python = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return _parse_yaml_value(text, key)
    numeric_keys = isinstance(as_python, dict) and not all(isinstance(name, str) for name in as_python)
    if numeric_keys or isinstance(as_python, (bool, int, float)):
        return _parse_yaml_value(text, key)  # which keeps the keys as strings
    value = _plain(as_python, key)
    try:
        as_yaml, texts = _parse_yaml_value(text, key)
    except UserError:
        return value, {}
    # Python determines the values, as '\\n' in quotes is another string in YAML; YAML gives the spelling of numbers
    return value, {place: written for place, written in texts.items() if _at(value, place) == _at(as_yaml, place)}


def _parse_yaml_value(text: str, key: str) -> tuple[Any, Texts]:
    try:
        return read(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{COMMAND_LINE}: {key}: expected a YAML or Python value, got {text!r}.") from error


def _at(value: Any, place: Place) -> Any:
    """Return the value at a place in nested data; an object equal to nothing if it is missing."""
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
    raise UserError(f"{COMMAND_LINE}: {key}: expected numbers, strings, lists and mappings, got {value!r}.")
