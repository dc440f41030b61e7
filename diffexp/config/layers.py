"""Where a config comes from: YAML files on a common base, then ``key=value`` overrides; later wins."""

import ast
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffexp.errors import UserError, did_you_mean
from diffexp.signals import ending_waits

BASE_KEY = "base"
COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Layer:
    """Nested values from one source, a file's path or the command line.

    `text` is how the command line wrote its one value: a key that wants a text gets it as written, "007" and not 7.
    """

    source: str
    values: dict[str, Any]
    text: str | None = None


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
    values = read_yaml(path)
    bases = values.pop(BASE_KEY, [])
    if isinstance(bases, str):
        bases = [bases]
    if not isinstance(bases, list) or not all(isinstance(each, str) for each in bases):
        raise UserError(f"{path}: {BASE_KEY}: must be a list of paths, not {bases!r}")
    layers = []
    for base in bases:
        layers += _file_layers(_find_base(path, base), [*within, resolved])
    return [*layers, Layer(str(path), values)]


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


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, as plain data.

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


@ending_waits()
def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """The mapping that a YAML text from `source` holds, as plain data. An empty text holds an empty one.

    Raises:
        UserError: if it is no YAML, or no mapping of texts to values.
    """
    try:
        values = OmegaConf.to_container(OmegaConf.create(text or "{}"))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, AssertionError, RecursionError) as error:
        raise UserError(f"{source}: cannot be read as YAML: {error}") from error
    return _mapping(values, source)


def _mapping(values: Any, source: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise UserError(f"{source}: must hold a mapping of keys to values")
    for key, value in values.items():
        if not isinstance(key, str):
            raise UserError(f"{source}: {key!r} is no key; keys are texts")
        if isinstance(value, dict):
            _mapping(value, source)
    return values


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
    nested: Any = parse_value(value, key)
    for part in reversed(parts):
        nested = {part: nested}
    return Layer(COMMAND_LINE, nested, value)


def parse_value(text: str, key: str) -> Any:
    """A value of the command line, in Python's writing (True, None, {'lr': 0.1}) or YAML's (true, null, {lr: 0.1}).

    W&B's agent passes the former.

    Raises:
        UserError: if it is neither.
    """
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = _parse_yaml_value(text, key)
    return _plain(value, key)


@ending_waits()
def _parse_yaml_value(text: str, key: str) -> Any:
    """As OmegaConf reads it in a file: 1e-4 is a number and 2024-07-01 a text."""
    try:
        values = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
    except (yaml.YAMLError, OmegaConfBaseException, RecursionError, ValueError) as error:
        raise UserError(f"{COMMAND_LINE}: {key}: {text!r} cannot be read as a value") from error
    assert isinstance(values, dict)
    return values["value"]


def _plain(value: Any, key: str) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(each, key) for each in value]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {name: _plain(each, key) for name, each in value.items()}
    raise UserError(f"{COMMAND_LINE}: {key}: a config holds numbers, texts, lists and mappings, not {value!r}")
