"""The scripts of examples/ run, in small, and print what they promise."""

import re
from pathlib import Path

import pytest
from PIL import Image

from tests.helpers.small import fit, script

FOLDER = Path(__file__).parents[1] / "examples"


def run(name, *arguments, cwd):
    return script(FOLDER / name, *arguments, cwd=cwd).stdout


@pytest.mark.slow
def test_sweep_timesteps_scores_every_t(tmp_path):
    small = ["training.max_steps=2", "training.batch_size=8", "score.count=80", "loggers=[csv]"]
    printed = run("sweep_timesteps.py", "--timesteps=10,20", *small, cwd=tmp_path)
    assert [int(t) for t in re.findall(r"^ +(\d+) +\d+\.\d{3} ± \d", printed, re.MULTILINE)] == [10, 20]


@pytest.mark.slow
def test_compare_samplers_draws_a_row_for_each(tmp_path):
    fit(tmp_path / "run", "training.max_steps=1", "model.timesteps=100", "sample_grid=null")
    printed = run("compare_samplers.py", "run", "--count=3", cwd=tmp_path)
    assert re.findall(r"^(\S+), \d+ steps: \d", printed.replace(" 2M", ""), re.MULTILINE) == [
        *("DDPM", "DDIM", "DPM-Solver++")
    ]
    assert Image.open(tmp_path / "samplers.png").size == (3 * 8, 3 * 8)


@pytest.mark.slow
def test_own_network_learns_the_statistics_of_its_images(tmp_path):
    printed = run("own_network.py", "--max-steps=200", cwd=tmp_path)
    (data, std), (mean, spread) = re.findall(r"mean ([+-][\d.]+), std ([\d.]+)", printed)
    assert float(mean) == pytest.approx(float(data), abs=0.2)  # of noise: 0
    assert float(spread) == pytest.approx(float(std), abs=0.15)
