"""List every text that diffexp shows: errors, warnings, help and output, each with its place.

`python -m tests.helpers.messages` writes the list to the terminal. A text is any string in `diffexp/` of two words or
more that is no docstring, and the docstring of every command; what an f-string inserts is shown in braces.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_WORDS = re.compile(r"[^\W\d_]{2,}\W+[^\W\d_]{2,}")


@dataclass(frozen=True)
class Message:
    """A text that diffexp shows.

    Attributes:
        place: file and line, from the root of the project.
        kind: what shows it: the exception that is raised, the function that is called, `help`, `command`, or `text`.
        text: the text.
    """

    place: str
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.kind}: {self.text}"


def messages() -> Iterator[Message]:
    """Every message of `diffexp/`, in the order of files and lines."""
    for path in sorted((ROOT / "diffexp").rglob("*.py")):
        tree = ast.parse(path.read_text())
        found = {*_docstrings(tree)}
        for node, kind in _texts(tree, "text"):
            if id(node) not in found and _WORDS.search(_shown(node)):
                yield Message(f"{path.relative_to(ROOT)}:{node.lineno}", kind, " ".join(_shown(node).split()))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and any(_is_command(each) for each in node.decorator_list):
                text = " ".join((ast.get_docstring(node) or "").split())
                yield Message(f"{path.relative_to(ROOT)}:{node.lineno}", "command", text)


def _docstrings(tree: ast.Module) -> Iterator[int]:
    """The ids of the nodes that are docstrings, or explain an attribute as one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield id(node.value)


def _texts(node: ast.AST, kind: str) -> Iterator[tuple[ast.Constant | ast.JoinedStr, str]]:
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        yield node, kind
        return
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        kind = f"raise {ast.unparse(node.exc.func)}"
    elif isinstance(node, ast.Call) and not kind.startswith("raise"):
        kind = ast.unparse(node.func).rsplit(".", 1)[-1]
    elif isinstance(node, ast.keyword) and node.arg == "help":
        kind = "help"
    for child in ast.iter_child_nodes(node):
        yield from _texts(child, kind)


def _shown(node: ast.Constant | ast.JoinedStr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    parts = (
        each.value if isinstance(each, ast.Constant) else f"{{{ast.unparse(each.value)}}}"  # type: ignore[attr-defined]
        for each in node.values
    )
    return "".join(map(str, parts))


def _is_command(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(called, ast.Attribute) and called.attr in ("command", "group")


if __name__ == "__main__":
    print(*messages(), sep="\n")
