"""Without the packages of the extras: the quickstart's commands work, and each use of an extra says what to install."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from diffexp.checkpoints.file import read_checkpoint, write_checkpoint
from diffexp.checkpoints.paths import list_checkpoints
from tests.helpers.small import SMALL, diffexp, fit

ROOT = Path(__file__).parents[2]
# What each extra is imported as.
PACKAGES = {
    "bayes": {"optuna"},
    "dashboard": {"wandb_workspaces"},
    "datasets": {"torchvision"},
    "inception": {"torch_fidelity", "torchvision"},
    "mlflow": {"mlflow", "sqlalchemy", "alembic", "filelock"},
    "report": {"matplotlib", "jinja2"},
    "tensorboard": {"tensorboard"},
    "trackio": {"trackio"},
}


def without(packages, *arguments, cwd):
    """Run the command line where packages are not installed: of all others, a folder of links."""
    site = cwd / f"without-{'-'.join(sorted(packages))}"
    if not site.exists():
        site.mkdir()
        for path in Path(sysconfig.get_path("purelib")).iterdir():
            if path.name.split("-")[0].replace("_skinny", "").lower() not in packages:
                (site / path.name).symlink_to(path)
    code = "from diffexp.cli.main import main; main()"
    command = [sys.executable, "-S", "-c", code, *arguments]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{site}", "WANDB_MODE": "offline"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run, and for each extra a plugin after whose import its packages are missing."""
    here = tmp_path_factory.mktemp("extras")
    fit(here / "run", "training.max_steps=1", "sample_grid=null")
    for extra, packages in PACKAGES.items():
        (here / f"without_{extra}.py").write_text(
            f"import sys\n"
            f"for name in [name for name in sys.modules if name.split('.')[0] in {packages!r}]:\n"
            f"    del sys.modules[name]\n"
            f"sys.modules.update(dict.fromkeys({packages!r}))\n"
        )
    return here


def test_every_extra_is_listed():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) - {"all", "dev", "docs"} == set(PACKAGES)
    assert extras["all"] == [f"diffexp[{','.join(PACKAGES)}]"]


@pytest.mark.slow
def test_the_base_trains_scores_and_samples_without_any_extra(tmp_path):
    packages = set().union(*PACKAGES.values()) - {"filelock", "jinja2"}  # torch needs these itself
    score = "score={'every': 8, 'count': 40, 'samplers': {'ddim-50': None, 'ddim-5': {'name': 'ddim', 'steps': 5}}}"
    small = [*SMALL, "loggers=[csv,wandb]", score, "score.samplers.ddpm=null"]
    done = without(packages, "train", "digits", *small, "run_dir=run", cwd=tmp_path)
    assert "8 of 8 steps done" in done.stdout, done.stderr
    assert "fd_digits_v1_40" in done.stdout
    done = without(packages, "sample", "run", "count=2", "sampler.steps=2", "out=two.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = without(packages, "compare", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "arguments"),
    [
        ("bayes", ["sweep", "plan", "learning_rate"]),
        ("datasets", ["train", "cifar10_ddpm"]),
        ("inception", ["evaluate", "run", "extractor.name=inception", "count=2048"]),
        ("mlflow", ["train", "digits", *SMALL, "loggers=[mlflow]"]),
        ("tensorboard", ["train", "digits", *SMALL, "loggers=[tensorboard]"]),
        ("trackio", ["train", "digits", *SMALL, "loggers=[trackio]"]),
    ],
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(extra, arguments, folder):
    done = diffexp(*arguments, "--plugin", f"without_{extra}", cwd=folder, expect=2)
    assert f"Run pip install 'diffexp[{extra}]'." in done.stderr
    assert not (folder / "runs").exists()


@pytest.mark.slow
def test_a_missing_tracker_is_named_before_anything_is_scored(folder):
    shutil.copytree(folder / "run", folder / "tracked")
    (file,) = list_checkpoints(folder / "tracked" / "checkpoints")
    content = read_checkpoint(file)
    write_checkpoint({**content, "config": content["config"].replace("- csv", "- csv\n- mlflow\n- tensorboard")}, file)
    few = ["extractor.name=digits_v1", "count=40", "repeats=1", "out=scores"]
    for sampler in ("steps=[2]", "sampler={'name': 'ddim', 'steps': 2}"):
        words = ["evaluate", "tracked", *few, sampler, "--plugin", "without_mlflow"]
        assert "Run pip install 'diffexp[mlflow]'." in diffexp(*words, cwd=folder, expect=2).stderr
        assert not (folder / "scores").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("extra", "arguments"), [("dashboard", ["dashboard", "push"]), ("report", ["report"])])
def test_what_reports_need_is_named_too(extra, arguments, folder):
    done = without(PACKAGES[extra], *arguments, "run", cwd=folder)
    assert done.returncode == 2, done.stderr
    assert f"Run pip install 'diffexp[{extra}]'." in done.stderr
    assert "Traceback" not in done.stderr
