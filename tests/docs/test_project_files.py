"""CITATION.cff, CHANGELOG.md and the pre-commit hooks agree with the project."""

import re
from pathlib import Path

import yaml
from pre_commit.clientlib import load_config

import diffexp

ROOT = Path(__file__).parents[2]


def test_the_citation_has_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == diffexp.__version__
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


def test_the_changelog_has_the_version_and_its_date():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\d\S+) \(([\d-]+)\)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest.groups() == (diffexp.__version__, str(citation["date-released"]))


def test_the_hooks_are_what_make_check_runs():
    hooks = load_config(ROOT / ".pre-commit-config.yaml")["repos"][0]["hooks"]
    check = (ROOT / "Makefile").read_text().partition("\ncheck:")[2].partition("\n\n")[0]
    tools = re.findall(r"\$\(BIN\)/(ruff \w+|mypy)", check)
    assert [re.search(r"bin/(ruff \w+|mypy)", hook["entry"])[1] for hook in hooks] == tools


def test_every_schema_file_of_contributing_exists():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| [\w ]+ \| (.*?) \| `(.*?)` \| `(.*?)` \|$", text, re.MULTILINE)
    assert len(rows) == 9
    for implementation, schema, tests in rows:
        folder = re.search(r"`(diffexp/.*?)(NAME\.py)?`", implementation)[1]
        for path in (folder, f"diffexp/config/schemas/{schema}", tests):
            assert (ROOT / path).exists(), path
