"""Mistakes on the command line are reported before torch is imported, which takes seconds."""

import os
import subprocess
import sys

import pytest

from tests.helpers.small import diffexp, fit

# torch must not be imported: a module of this name that fails comes first on the path
BLOCK = "raise RuntimeError('torch was imported')\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes")
    fit(folder / "run")
    diffexp("export", "run", "out=model.safetensors", cwd=folder)
    (folder / "block").mkdir()
    (folder / "block" / "torch.py").write_text(BLOCK)
    return folder


MISTAKES = [
    ("sample none", "no such checkpoint or run directory"),
    ("sample run sampler=ddmi", "Did you mean 'ddim'?"),
    ("sample run sampler.step=5", "Did you mean sampler.steps?"),
    ("sample run sampler.steps=21", "expected an integer <= model.timesteps = 20, got 21"),
    ("sample run/checkpoints/step-00000008.ckpt cout=3", "Did you mean count?"),
    ("sample model.safetensors cout=3", "Did you mean count?"),
    ("sample run out=x.jpg", "expected NAME.png, NAME.npz or the name of a folder, got x.jpg"),
    ("sample run out=model.safetensors", "got the file model.safetensors"),
    ("evaluate none", "no such checkpoint or run directory"),
    ("evaluate run metric=bpd", "Did you mean metrics?"),
    ("evaluate run extractor=digits_v2", "Did you mean 'digits_v1'?"),
    ("evaluate run count=8 extractor=digits_v1", "count: expected at least 40 images"),
    ("evaluate run --table evaluate/solver", "no such config file"),
    ("evaluate run extractor=digits_v1 reference.file=none.npz", "there is no file none.npz"),
    ("export run format=difusers", "expected one of safetensors, diffusers, got 'difusers'"),
    ("export run out=x.pt", "expected a name that ends in .safetensors, got x.pt"),
    ("import none data=digits", "none: expected a file or folder, got none"),
    ("import run", "data.name: required key is missing"),
    ("import run data=digits modl.timesteps=3", "Did you mean model.timesteps?"),
    ("reproduce none", "expected a run directory, a checkpoint, or ENTITY/PROJECT/ID"),
    ("reproduce run optim.lrr=1", "Did you mean optim.lr?"),
    ("report none", "none: expected the directory of a run"),
    ("report run --out model.safetensors", "--out: expected a new file, got model.safetensors"),
    ("report run --figure x", "No such option"),
    ("compare none", "none: expected the directory of a run"),
    ("score none digits", "none: expected a .npz, folder or zip of images, got none"),
    ("score run/samples digit", "no such config file"),
    ("score run/samples digits extractor.nam=x", "Did you mean extractor.name?"),
    ("score run/samples digits extractor=digits_v1 out=run", "out: expected a .json file, got the folder run"),
    ("train digit", "no such config file"),
    ("train digits init=none", "init: expected a run, a checkpoint or an exported file, got none"),
    ("extractor digits name=mine stesp=3", "Did you mean steps?"),
    ("sweep run timestep", "timesteps"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "message"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_a_mistake_is_reported_without_torch(folder, command, message):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder / "block"), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-m", "diffexp", *command.split()], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert message in done.stderr
