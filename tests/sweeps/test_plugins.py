"""A file runs no code: plugins come from the command line, and the current folder replaces no module of Python."""

import subprocess
import sys
from pathlib import Path

import pytest

from diffexp.cli.main import main
from diffexp.config import plugins
from diffexp.errors import UserError
from diffexp.sweeps.plan import Sweep
from tests.helpers.small import SMALL

FILE = """
method: grid
command: [diffexp, train, digits, training.max_steps=2, --plugin, theirs, --trial, s, "${args_json}"]
parameters: {seed: {values: [0]}}
"""
THEIRS = "import pathlib\npathlib.Path(__file__).with_name('executed').touch()\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a sweep file that names a plugin."""
    (tmp_path / "s.yaml").write_text(FILE)
    (tmp_path / "theirs.py").write_text(THEIRS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "_named", set())
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    yield tmp_path
    sys.modules.pop("theirs", None)


def printed(monkeypatch, capsys, *arguments):
    """Run the command line here; return its exit code and stderr."""
    monkeypatch.setattr(sys, "argv", ["diffexp", "sweep", *arguments])
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    ["check s.yaml", "check s.yaml seed=1", "plan s.yaml", "plan s.yaml --time", "run s.yaml", "submit s.yaml --print"],
)
def test_a_sweep_file_that_names_a_plugin_is_refused(folder, monkeypatch, capsys, command):
    code, err = printed(monkeypatch, capsys, *command.split())
    assert code == 2
    assert "names the plugin theirs, which is code. If you trust it, pass --plugin theirs." in err
    assert sorted(each.name for each in folder.iterdir()) == ["s.yaml", "theirs.py"]


@pytest.mark.parametrize(
    "command",
    ["plan runs/s --time", "run runs/s", "submit runs/s --print", "submit runs/s --engine local", "trial runs/s 0"],
)
def test_a_plan_that_names_a_plugin_is_refused_too(folder, monkeypatch, capsys, command):
    assert printed(monkeypatch, capsys, "plan", "s.yaml", "--plugin", "theirs") == (0, "")
    (folder / "executed").unlink()
    monkeypatch.setattr(plugins, "_named", set())
    sys.modules.pop("theirs")
    code, err = printed(monkeypatch, capsys, *command.split())
    assert code == 2
    assert "runs/s: names the plugin theirs" in err
    assert not (folder / "executed").exists()


def test_the_trials_of_a_plan_import_plugins_only_where_the_user_is(folder, monkeypatch, capsys, tmp_path_factory):
    printed(monkeypatch, capsys, "plan", "s.yaml", "--plugin", "theirs")
    mine = tmp_path_factory.mktemp("mine")
    (mine / "theirs.py").touch()
    monkeypatch.chdir(mine)
    with pytest.raises(UserError, match=f"in the folder where they were planned, expected {folder}, got {mine}"):
        Sweep(folder / "runs" / "s").typical()


def test_a_job_names_the_plugins_that_the_user_has_named(folder, monkeypatch, capsys):
    printed(monkeypatch, capsys, "plan", "s.yaml", "--plugin", "theirs")
    monkeypatch.setattr(sys, "argv", ["diffexp", "sweep", "submit", "runs/s", "--print", "--plugin", "theirs"])
    main()
    assert '"$index" --plugin theirs' in capsys.readouterr().out


def test_a_folder_hides_no_module_of_python(folder):
    (folder / "wave.py").write_text(THEIRS)
    with pytest.raises(UserError, match=r"--plugin wave: expected wave\.py, got .*Rename wave\.py"):
        plugins.load_plugins(["wave"])
    assert not (folder / "executed").exists()


@pytest.mark.slow
def test_trials_import_nothing_from_their_folder(folder):
    for name in ("random", "json", "torch", "lightning", "yaml"):
        (folder / f"{name}.py").write_text(THEIRS)
    (folder / "s.yaml").write_text(FILE.replace("--plugin, theirs, ", ""))
    command = [str(Path(sys.executable).with_name("diffexp")), "sweep", "run", "s.yaml", *SMALL]
    done = subprocess.run([*command, "training.max_steps=2", "training.devices=2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (folder / "executed").exists()
