"""The public API: quick to import, complete, and clear about wrong values."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import diffexp
from diffexp import DDIM, DDPM, DPMSolver, UniPC
from diffexp.cli.main import main
from tests.helpers.small import fit


@pytest.mark.slow
def test_import_takes_nothing_heavy_and_names_are_found():
    code = "import sys, diffexp; assert 'torch' not in sys.modules; assert 'load' in dir(diffexp); diffexp.Schedule"
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in diffexp.__all__:
        assert getattr(diffexp, name).__module__.startswith("diffexp"), name
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = diffexp.lod


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDIM(eta=7), r"eta: expected a number in \[0, 1\], got 7\."),
        (lambda: DDIM(sigma_hat=True), "eta: expected 1 with sigma_hat, got 0.0"),
        (lambda: DDPM("large"), "variance: expected one of fixed_small, fixed_large, none, learned, got 'large'"),
        (lambda: DPMSolver(order=4), "order: expected one of 1, 2, 3, got 4"),
        (lambda: UniPC(order=0), "order: expected one of 1, 2, 3, got 0"),
        (lambda: diffexp.load("run", weights="EMA"), "weights: expected one of ema, raw, got 'EMA'"),
        (lambda: diffexp.load("run", plugins="mine"), "plugins: expected a list of modules, got 'mine'"),
    ],
)
def test_a_wrong_value_is_a_value_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run"
    fit(path, "training.max_steps=2", "sample_grid=null")
    return path


def test_a_run_is_loaded_and_sampled_in_one_line(run):
    images = diffexp.load(str(run)).sample(steps=3, count=4, seed=1)
    assert (images.shape, images.dtype) == ((4, 1, 8, 8), torch.uint8)
    assert torch.equal(images, diffexp.load(run).sample("ddim", steps=3, count=4, seed=1, request_batch_size=1))
    assert not torch.equal(images, diffexp.load(run, weights="raw").sample("ddim", steps=3, count=4, seed=2))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"steps": 500}, "sampler.steps: expected an integer <= model.timesteps = 20, got 500"),
        ({"sampler": "ddim", "eta": 7}, "sampler.eta: expected a number >= 0 and <= 1"),
        ({"sampler": "dim"}, "got 'dim'.*Did you mean 'ddim'"),
        ({"foo": 1}, "sampler.foo: unknown key"),
        ({"count": 0}, "count: expected an integer >= 1"),
    ],
)
def test_a_wrong_request_is_a_value_error(run, keys, message):
    with pytest.raises(ValueError, match=message):
        diffexp.load(run).sample(**keys)


def test_train_takes_a_config_and_resumes(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    outcome = diffexp.train(run / "config.yaml", ["run_dir=again", "training.max_steps=1"])
    assert (outcome.step, outcome.run.path) == (1, Path("again"))
    assert diffexp.train("again", ["training.max_steps=2"], resume=True).step == 2


def test_windows_is_refused_clearly(monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "win32")
    message = "diffexp: expected Linux or macOS, got Windows. Use WSL 2"
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    monkeypatch.delitem(vars(diffexp), "Schedule", raising=False)
    with pytest.raises(diffexp.UserError, match=message):
        _ = diffexp.Schedule
