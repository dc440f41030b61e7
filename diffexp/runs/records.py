"""Read the JSON files of a run, which a disk, an interrupted copy or an editor may have damaged."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from diffexp.errors import UserError
from diffexp.system.notices import warn_once
from diffexp.system.reading import open_regular, reading

_Content = TypeVar("_Content")


def read_record(path: Path, remedy: str = "Restore it.") -> bytes:
    """Return the content of a file; the arguments and errors are those of `read_object`."""
    try:
        with reading(path), open_regular(path) as file:
            return file.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}. {remedy}") from error


def read_object(path: Path, remedy: str = "Restore it.") -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        path: the file.
        remedy: a sentence that says what to do about a damaged file.

    Raises:
        UserError: if the file is no JSON object, or cannot be read.
        EnvironmentFailure: if the disk is failing.
    """
    text = read_record(path, remedy)
    try:
        content = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected a JSON object, got a damaged file. {remedy}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, got {_kind(content)}. {remedy}")
    return content


def optional_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or {} without one. diffexp warns of a file that it cannot read."""
    if not os.path.lexists(path):
        return {}
    try:
        return read_object(path, "diffexp continues without it.")
    except UserError as error:
        warn_once(str(error))
        return {}


def optional_values(path: Path, read: Callable[[dict[str, Any]], list[_Content]]) -> list[_Content]:
    """Return what `read` finds in the object of a JSON file. diffexp warns of content in another form and skips it."""
    content = optional_object(path)
    try:
        return read(content) if content else []
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, ArithmeticError):
        warn_once(f"{path}: expected a record of diffexp, got other content. diffexp continues without it.")
        return []


def typed(content: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    """Return the content without the keys whose values have other types than in `kinds`; True is no number."""
    return {
        key: value
        for key, value in content.items()
        if key not in kinds or (isinstance(value, kinds[key]) and not isinstance(value, bool))
    }


def _kind(content: Any) -> str:
    names = {list: "a list", str: "a text", bool: "a truth value", int: "a number", float: "a number"}
    return names.get(type(content), "null")
