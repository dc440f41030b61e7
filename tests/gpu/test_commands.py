"""The commands on a GPU, from training to an export that comes back."""

import json

import numpy as np
import pytest
import torch

from diffexp.config.load import load_experiment
from tests.helpers.small import diffexp, metrics

STEPS, SCORED, DRAWN = (60, 200, 32) if torch.cuda.is_available() else (4, 40, 8)  # a rehearsal learns nothing
BRIEF = [
    f"training={{'max_steps': {STEPS}, 'batch_size': 64, 'log_every_n_steps': {min(STEPS, 20)}}}",
    f"score={{'every': {STEPS}, 'count': {SCORED}}}",
    "loggers=[csv]",
]


@pytest.fixture(scope="module")
def here(tmp_path_factory, device):
    """A folder, and what to train on."""
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    return tmp_path_factory.mktemp("commands"), f"training.accelerator={accelerator}", f"accelerator={accelerator}"


def last(run, name):
    return [row[name] for row in metrics(run) if name in row][-1]


@pytest.mark.slow
def test_the_quickstart_learns_digits(cuda, tmp_path):
    diffexp("train", "digits", "loggers=[csv]", "run_dir=run", cwd=tmp_path)
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["step"]) == ("finished", load_experiment("digits", []).training.max_steps)
    assert last(tmp_path / "run", "train/loss") < 0.2
    distances = [value for row in metrics(tmp_path / "run") for name, value in row.items() if "/fd_digits" in name]
    assert min(distances) < 2  # the README's is below 1


def test_a_gan_trains_and_samples(here):
    folder, training, accelerator = here
    diffexp("train", "families/digits_gan", *BRIEF, training, "run_dir=gan", cwd=folder)
    diffexp("sample", "gan", accelerator, "count=4", "out=gan.npz", cwd=folder)
    assert np.load(folder / "gan.npz")["images"].std() > 1


def test_a_latent_diffusion_trains_on_its_autoencoder_and_samples(here):
    folder, training, accelerator = here
    diffexp("train", "families/digits_autoencoder", *BRIEF, training, "run_dir=vae", cwd=folder)
    diffexp(
        "train",
        "families/digits_latent_diffusion",
        *BRIEF,
        training,
        "model.autoencoder=vae",
        "run_dir=latent",
        cwd=folder,
    )
    diffexp("sample", "latent", accelerator, "count=4", "sampler.steps=5", "out=latent.npz", cwd=folder)
    assert np.load(folder / "latent.npz")["images"].std() > 1


def test_an_export_comes_back(here):
    folder, training, accelerator = here
    network = "model.network={'base_channels': 32, 'norm_num_groups': 32}"
    diffexp("train", "digits", *BRIEF, training, network, "score=null", "sample_grid=null", "run_dir=run", cwd=folder)
    diffexp("export", "run", "format=diffusers", "out=pipeline", cwd=folder)
    diffexp("import", "pipeline", "data.name=digits", "out=back.safetensors", cwd=folder)
    how = ["count=8", "sampler.steps=10", "precision=32-true", accelerator]
    for name in ("run", "back.safetensors"):
        diffexp("sample", name, *how, f"out={name.split('.')[0]}.npz", cwd=folder)
    one, other = (np.load(folder / f"{name}.npz")["images"].astype(int) for name in ("run", "back"))
    assert np.abs(one - other).max() <= 1


def test_graphs_precisions_and_memory_by_the_command_line(here):
    folder, training, accelerator = here
    diffexp("train", "digits", *BRIEF, training, "score=null", "sample_grid=null", "run_dir=switches", cwd=folder)
    how = [f"count={DRAWN}", "sampler.steps=10", accelerator]
    images = {}
    for name, words in {
        "plain": ["precision=32-true"],
        "graphs": ["precision=32-true", "cuda_graphs=true"],
        "true": ["precision=bf16-true", "cuda_graphs=true"],
        "memory": ["precision=32-true", "memory_gb=1"],
    }.items():
        diffexp("sample", "switches", *how, *words, f"out={name}.npz", cwd=folder)
        images[name] = torch.from_numpy(np.load(folder / f"{name}.npz")["images"].astype(int))
    for name, most in {"graphs": 0.1, "true": 3, "memory": 0.1}.items():
        assert (images[name] - images["plain"]).abs().double().mean() < most, name
