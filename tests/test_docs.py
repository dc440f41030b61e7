"""What the documentation names exists, and what is generated is current."""

import importlib
import importlib.util
import re
from pathlib import Path

import pytest
import torch

from tests import solver_errors
from tests.small import fit

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def test_the_reference_is_current():
    spec = importlib.util.spec_from_file_location("write_reference", ROOT / "docs" / "write_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "config.md").read_text() == module.reference(), "run make docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_functions_tests_and_files_exist(page):
    text = page.read_text()
    for name in set(re.findall(r"`(diffexp(?:\.\w+)+)`", text)) - {"diffexp.json"}:
        assert resolves(name), name
    for file, test in set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)):
        assert f"def {test}(" in (ROOT / file).read_text(), test
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target


def resolves(name):
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[end:]:
            if not hasattr(value, attribute):
                return False
            value = getattr(value, attribute)
        return True
    return False


def test_the_table_of_solver_errors_is_what_its_command_prints():
    assert solver_errors.table() in (ROOT / "docs" / "solvers.md").read_text()


def test_the_library_page_runs(tmp_path, capsys):
    first, second = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "library.md").read_text(), re.DOTALL)
    exec(first, {"network": lambda x, t: torch.tanh(x) + t.view(-1, 1, 1, 1) / 1000})
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(" torch")[0] for line in printed] == ["ddpm", "ddim", "dpm++ 2M", "unipc"]
    fit(tmp_path / "run", "training.steps=1", "sample_grid=null")
    names = {"run": str(tmp_path / "run")}
    exec(second, names)
    assert names["pixels"].shape == (4, 1, 8, 8)
    assert names["pixels"].dtype == torch.uint8
