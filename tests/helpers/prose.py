"""The rules of our prose that a machine can check: words we do not use, the width of lines, marks of merges.

`python -m tests.helpers.prose [FILE ...]` lists what breaks them, in all of README, docs, docstrings, comments and
messages, or in the files given.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.messages import ROOT

# Words of a dialect that this project once had. Each has a plain one that says who does what: see CONTRIBUTING.md.
REJECTED = re.compile(
    r"\b(told|anew|go(es|ing)? on|went on|begun|ma(d|k)e (\w+ )?again|t(ake|akes|aken|ook) up|beside|stands?|stood"
    r"|lies?|whole|left out|leav(e|es|ing) (\w+ )?out|given? up|gives up|gave up|sees? that|for ever)\b",
    re.IGNORECASE,
)
WIDTH = 100
_CONFLICT = re.compile(r"(<{7}|>{7}) ")
_URL = re.compile(r"https?://\S+|\]\([^)]*\)")
_CODE = re.compile(r"`[^`\n]*`")


def pages() -> list[Path]:
    """README, the other pages at the top, and every page of docs, examples and benchmarks that people write."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    found += (ROOT / "benchmarks").glob("*/README.md")
    return sorted(path for path in found if "_build" not in path.parts)


def sources() -> list[Path]:
    """Every Python file that is not a test."""
    folders = (ROOT / name for name in ("diffexp", "benchmarks", "docs", "examples"))
    return sorted(path for folder in folders for path in folder.rglob("*.py") if "_build" not in path.parts)


def settings() -> list[Path]:
    """The ready configs and sweeps, and the files that set up the project."""
    project = [ROOT / name for name in ("pyproject.toml", "Makefile", ".ci/run", ".pre-commit-config.yaml")]
    return [*project, *sorted(path for name in ("configs", "sweeps") for path in (ROOT / name).rglob("*.yaml"))]


def complaints(path: Path) -> Iterator[str]:
    """What breaks the rules in a file, each with its line."""
    name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    text = path.read_text()
    lines = _prose_of_python(text) if path.suffix == ".py" else enumerate(text.splitlines(), 1)
    for number, line in lines:
        for match in REJECTED.finditer(_URL.sub("", _CODE.sub("", line))):
            yield f"{name}:{number}: {match[0]!r} in: {line.strip()[:120]}"
    for number, line in enumerate(text.splitlines(), 1):
        if _CONFLICT.match(line):
            yield f"{name}:{number}: an unresolved conflict of a merge"
    if path.suffix == ".md":
        for number, line in enumerate(text.splitlines(), 1):
            is_free = line.lstrip().startswith(("|", "!", "[")) or _URL.search(line)
            if len(line) > WIDTH and not is_free:
                yield f"{name}:{number}: {len(line)} columns, at most {WIDTH}"


def _prose_of_python(text: str) -> Iterator[tuple[int, str]]:
    """The lines of docstrings, messages and comments, with their numbers."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            for offset, line in enumerate(node.value.splitlines()):
                yield node.lineno + offset, line
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


if __name__ == "__main__":
    files = [Path(name).resolve() for name in sys.argv[1:]] or [*pages(), *sources(), *settings()]
    found = [each for path in files for each in complaints(path)]
    print(*found, sep="\n")
    sys.exit(1 if found else 0)
