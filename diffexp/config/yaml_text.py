"""Read YAML and keep the spelling of its scalars: `name: 007` is the number 7 only for a key that takes a number.

Numbers are those of YAML 1.2 and Python: 1e-3, 0x1f, 0o17 and 1_000. YAML 1.1 silently converts further scalars: 010
to 8, 12:30:00 to 45000 and 2024-01-01 to a date. diffexp reads these as strings.
"""

import re
from functools import lru_cache
from typing import Any

import yaml

from diffexp.config.fields import copied
from diffexp.system.signals import defer_exit

# The path of a value: keys of mappings and indices of lists.
Place = tuple[str | int, ...]
# The spelling of the plain scalars that are not strings.
Texts = dict[Place, str]

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast
_MOST = 100_000  # values; aliases of aliases can expand a few lines to millions
_NULLS = ("", "~", "null", "Null", "NULL")
_BOOLS = {"true": True, "false": False, "yes": True, "no": False, "on": True, "off": False}
_INT = re.compile(r"[-+]?(0|[1-9](_?\d)*|0x[\da-fA-F]+|0o[0-7]+|0b[01]+)")
_DIGITS = r"\d(_?\d)*"
_FLOAT = re.compile(rf"[-+]?(({_DIGITS})?\.{_DIGITS}|{_DIGITS}\.|{_DIGITS}(?=[eE]))([eE][-+]?\d+)?")
_SPECIAL = {".inf": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan")}


@defer_exit()
def read(text: str) -> tuple[Any, Texts]:
    """Parse a YAML text to plain data and the spelling of its plain scalars.

    Raises:
        yaml.YAMLError: if it is not YAML, has a duplicate key, or has unsupported tags or aliases.
        RecursionError: if it is nested too deeply.
    """
    value, texts = _read(text)
    return copied(value), dict(texts)


@lru_cache(maxsize=64)  # every trial of a sweep reads the same files
def _read(text: str) -> tuple[Any, Texts]:
    node = yaml.compose(text, _LOADER)
    reader = _Reader()
    value = None if node is None else reader.value(node, ())
    return value, reader.texts


class _Reader:
    def __init__(self) -> None:
        self.texts: Texts = {}
        self._left = _MOST
        self._within: list[yaml.Node] = []

    def value(self, node: yaml.Node, place: Place) -> Any:
        self._left -= 1
        if self._left < 0:
            raise yaml.YAMLError(f"expected at most {_MOST} values")
        if any(node is each for each in self._within):
            raise yaml.YAMLError(f"an alias contains itself{node.start_mark}")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, place)
        if node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            raise yaml.YAMLError(f"the tag {node.tag} is not supported{node.start_mark}")
        self._within.append(node)
        if isinstance(node, yaml.MappingNode):
            entries = self._entries(node)
            value: Any = {key: self.value(below, (*place, key)) for key, below in entries.items()}
        else:
            value = [self.value(each, (*place, i)) for i, each in enumerate(node.value)]
        self._within.pop()
        return value

    def _entries(self, node: yaml.MappingNode) -> dict[str, yaml.Node]:
        """Return a mapping's own entries over those that `<<: *alias` merges into it."""
        own: dict[str, yaml.Node] = {}
        merged: dict[str, yaml.Node] = {}
        for key, below in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                for each in below.value if isinstance(below, yaml.SequenceNode) else [below]:
                    if not isinstance(each, yaml.MappingNode) or any(each is outer for outer in self._within):
                        raise yaml.YAMLError(f"expected another mapping after <<{key.start_mark}")
                    self._within.append(each)
                    merged = {**self._entries(each), **merged}
                    self._within.pop()
            elif not isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"expected a string as key, got a list or mapping{key.start_mark}")
            elif str(key.value) in own:
                raise yaml.YAMLError(f"duplicate key {key.value!r}{key.start_mark}")
            else:
                own[str(key.value)] = below
        return {**merged, **own}

    def _scalar(self, node: yaml.ScalarNode, place: Place) -> Any:
        text = str(node.value)
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if kind not in ("null", "bool", "int", "float", "str", "timestamp", "merge", "value"):
            raise yaml.YAMLError(f"the tag {node.tag} is not supported{node.start_mark}")
        if node.style or (kind == "str" and not _is_plain_text(text)):
            return text  # quoted, or !!str
        value = scalar(text)
        if not isinstance(value, str):
            self.texts[place] = text
        return value


def _is_plain_text(text: str) -> bool:
    """Whether YAML resolves the unquoted text to a string without an explicit tag."""
    tag: str = yaml.resolver.Resolver().resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    return tag == "tag:yaml.org,2002:str"


def scalar(text: str) -> Any:
    """Return the null, boolean or number that a plain scalar denotes, or the text itself."""
    if text in _NULLS:
        return None
    if text.lower() in _BOOLS and text in (text.lower(), text.upper(), text.capitalize()):
        return _BOOLS[text.lower()]
    if _INT.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text) and abs(float(text)) < float("inf"):
        return float(text)
    return _SPECIAL.get(text.lower(), text)
