"""Imports point downwards, in no circle; what needs no torch imports none."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "diffexp"

# The rooms of docs/guides/design.md, from the top down.
ROOMS = (
    *("cli", "commands", "reproduction", "reports", "sweeps", "callbacks", "evaluation", "checkpoints", "models"),
    *("convert", "networks", "diffusion", "loggers", "data", "runs", "statistics", "config", "rng", "system"),
    *("formatting", "errors"),
)


def name_of(file):
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def imports():
    """By module, the modules of diffexp that it imports anywhere, for type checkers included."""
    files = {name_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}
    found = {}
    for name, file in files.items():
        found[name] = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in files:
                parts = {f"{node.module}.{each.name}" for each in node.names}
                found[name] |= (parts & files.keys()) or {node.module}
            elif isinstance(node, ast.Import):
                found[name] |= {each.name for each in node.names} & files.keys()
    return found


def room(module):
    return module.split(".")[1] if "." in module else ""


def test_every_module_is_in_a_room():
    assert {room(module) for module in imports()} == {"", "__main__", *ROOMS}


def test_the_guide_of_a_room_names_its_files():
    for guide in PACKAGE.rglob("__init__.py"):
        text = ast.get_docstring(ast.parse(guide.read_text())) or ""
        named = {word for word in text.replace(";", " ").split() if word.endswith(".py")}
        assert named <= {file.name for file in guide.parent.glob("*.py")}, guide


def test_imports_point_downwards():
    upwards = [
        f"{module} → {other}"
        for module, others in imports().items()
        for other in others
        if room(module) in ROOMS and room(other) in ROOMS and ROOMS.index(room(module)) > ROOMS.index(room(other))
    ]
    assert upwards == []


def test_there_is_no_circle():
    left = {module: set(others) for module, others in imports().items() if module != "diffexp"}
    while free := [module for module, others in left.items() if not others & left.keys()]:
        for module in free:
            del left[module]
    assert sorted(left) == []


def test_schemas_and_sweeps_import_no_torch():
    light = [name for name in imports() if name.startswith(("diffexp.config", "diffexp.cli", "diffexp.sweeps"))]
    code = f"import importlib, sys; [importlib.import_module(name) for name in {light}]; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
