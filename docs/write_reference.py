"""Generate docs/reference/config.md from the schemas, so that it always agrees with the code."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from textwrap import fill
from typing import Any, get_type_hints

from diffexp.config.fields import Range
from diffexp.config.merge import describe
from diffexp.config.registry import Component
from diffexp.config.schemas.data import DATA
from diffexp.config.schemas.engines import SlurmEngineConfig
from diffexp.config.schemas.experiment import Experiment
from diffexp.config.schemas.extractors import EXTRACTORS
from diffexp.config.schemas.models.base import MODELS
from diffexp.config.schemas.networks import AUTOREGRESSIVE_NETWORKS, NETWORKS
from diffexp.config.schemas.requests import (
    EvaluateRequest,
    ExportRequest,
    ExtractorRequest,
    ImportRequest,
    SampleRequest,
    ScoreRequest,
)
from diffexp.config.schemas.samplers import SAMPLERS
from diffexp.config.schemas.schedules import SCHEDULES
from diffexp.config.schemas.weightings import WEIGHTINGS
from diffexp.config.select import without_none

HEAD = """# Configuration keys

`make docs` generates this page from the schemas in `diffexp/config/`; a test checks that it is
up to date. `diffexp config show NAME` prints a complete config with every key.

"""


def reference() -> str:
    """Return the text of docs/reference/config.md."""
    parts = [HEAD, "## Experiments: `diffexp train`\n", *_section(Experiment, "")]
    for registry in (DATA, MODELS, SCHEDULES, WEIGHTINGS, NETWORKS, AUTOREGRESSIVE_NETWORKS, SAMPLERS, EXTRACTORS):
        parts.append(f"\n## {registry.group.capitalize()}s: values of `name` and their keys\n")
        for name in registry.names:
            parts += [f"\n### `{name}`\n", *_section(registry.schema(name), "", recurse=False)]
    commands = {
        "sample": SampleRequest,
        "export": ExportRequest,
        "import": ImportRequest,
        "evaluate": EvaluateRequest,
        "score": ScoreRequest,
        "extractor": ExtractorRequest,
        "sweep submit": SlurmEngineConfig,
    }
    for command, schema in commands.items():
        parts += [f"\n## What `diffexp {command}` takes\n", *_section(schema, "")]
    return "\n".join(parts).rstrip() + "\n"


def _section(schema: type, prefix: str, *, recurse: bool = True, note: str = "") -> Iterator[str]:
    """Yield the paragraph and the table of a schema, then the sections of its nested schemas."""
    yield fill(f"{_docstring(schema)[0]} {note}".strip(), 100, break_on_hyphens=False) + "\n"
    rows = list(_rows(schema, prefix, recurse=recurse))
    if rows:
        yield from ("| key | value | default |", "|---|---|---|", *rows)
    if recurse:
        notes = _docstring(schema)[1]
        for name, inner in _below(schema):
            yield f"\n### `{prefix}{name}`\n"
            yield from _section(inner, f"{prefix}{name}.", note=f"{notes[name]}." if name in notes else "")


def _below(schema: type) -> Iterator[tuple[str, type]]:
    """The nodes below that are not chosen by name."""
    for each in fields(schema):
        inner = without_none(get_type_hints(schema)[each.name])
        if is_dataclass(inner) and not issubclass(inner, Component):
            yield each.name, inner


def _rows(schema: type, prefix: str, *, recurse: bool) -> Iterator[str]:
    """The rows of a table; without sections below, the keys of the nodes below, too."""
    notes = _docstring(schema)[1]
    for each in fields(schema):
        if each.name == "name" and issubclass(schema, Component):
            continue
        hint = get_type_hints(schema)[each.name]
        inner = without_none(hint)
        note = f"; {notes[each.name]}" if each.name in notes else ""
        if is_dataclass(inner):
            if issubclass(inner, Component):
                group = inner.registry.group
                article = "an" if group[0] in "aeiou" else "a"
                yield f"| `{prefix}{each.name}` | {article} {group}, see below{note} | {_default_name(each)} |"
            elif not recurse:
                yield f"| `{prefix}{each.name}` | {describe(hint)}{note} | {_default(each)} |"
                yield from _rows(inner, f"{prefix}{each.name}.", recurse=False)
            continue
        yield f"| `{prefix}{each.name}` | {_kind(hint, each)}{note} | {_default(each)} |"


def _docstring(schema: type) -> tuple[str, dict[str, str]]:
    """The docstring's text before "Keys:", and the note on each key, inherited ones included."""
    text, _, keys = inspect.cleandoc(schema.__doc__ or "").partition("Keys:\n")
    notes: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        said = (
            inspect.cleandoc(base.__dict__.get("__doc__") or "").partition("Keys:\n")[2] if base is not schema else keys
        )
        for match in re.finditer(r"^    (\w[\w, ]*): (.*(?:\n        .*)*)", said, re.MULTILINE):
            for name in match[1].split(", "):
                notes[name] = " ".join(match[2].split()).rstrip(".").replace("|", "\\|")
    return " ".join(text.split()), notes


def _kind(hint: Any, field: Any) -> str:
    if getattr(hint, "__origin__", None) is dict:
        return "named samplers, each with `name:` and its keys"
    return describe(hint, str(field.metadata.get("range", Range())))


def _default(field: Any) -> str:
    value = field.default_factory() if field.default_factory is not MISSING else field.default
    if value == []:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"`{name}`" for name in value)
    words = {"None": "null", "True": "true", "False": "false", "???": "required"}
    return words.get(str(value), f"`{value}`")


def _default_name(field: Any) -> str:
    if field.default is None:
        return "null"
    return "required" if field.default == "???" else f"`{field.default_factory().name}`"


if __name__ == "__main__":
    (Path(__file__).parent / "reference" / "config.md").write_text(reference())
