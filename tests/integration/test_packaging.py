"""The wheel works outside the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.helpers.small import SMALL

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_wheel_finds_its_configs_outside_the_checkout(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("diffexp-*.whl")
    installed = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(installed)
    assert not (installed / "tests").exists()
    code = "import diffexp; from diffexp.cli.main import main; main()"

    def run(*arguments):
        command = [sys.executable, "-c", f"{code}", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(installed), "DIFFEXP_CACHE": str(tmp_path / "cache")}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout

    where = [sys.executable, "-c", "import diffexp; print(diffexp.__file__)"]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    found = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert found == f"{installed / 'diffexp' / '__init__.py'}\n"
    assert run("config", "check", "digits") == "digits: valid\n"
    assert run("sweep", "check", "timesteps") == "timesteps: valid: grid, 10 trials\n"
    assert "1 of 1 steps done" in run("train", "digits", *SMALL, "training.max_steps=1", "run_dir=run")
    assert "`fd_digits_v1_40`" in run(
        "evaluate", "run", "steps=[5]", "count=40", "repeats=1", "extractor.name=digits_v1"
    )
    assert "2 images: two.png" in run("sample", "run", "count=2", "out=two.png")
