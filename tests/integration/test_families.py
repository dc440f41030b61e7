"""The commands on families other than diffusion."""

import json

import pytest

from tests.helpers.small import diffexp

BRIEF = [
    "training={'max_steps': 4, 'batch_size': 8, 'log_every_n_steps': 2}",
    "score={'every': 4, 'count': 60}",
    "sample_grid={'count': 4}",
    "loggers=[csv]",
]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with short runs of a GAN, a VAE and, from that, a latent diffusion."""
    folder = tmp_path_factory.mktemp("families")
    cache = {"DIFFEXP_CACHE": str(folder / "cache")}
    narrow = ["model.widths=[8, 8]"]
    diffexp("train", "families/digits_gan", *BRIEF, *narrow, "run_dir=gan", cwd=folder, **cache)
    diffexp("train", "families/digits_vae", *BRIEF, *narrow, "run_dir=vae", cwd=folder, **cache)
    network = "model.network={'base_channels': 8, 'norm_num_groups': 4}"
    latent = ["model.autoencoder=vae", "model.vae.widths=[8, 8]", network]
    diffexp("train", "families/digits_latent_diffusion", *BRIEF, *latent, "run_dir=latent", cwd=folder, **cache)
    return folder, cache


@pytest.mark.slow
def test_they_are_sampled_scored_and_exported(here):
    folder, cache = here
    for run, words in (("gan", ["sampler.temperature=0.5"]), ("latent", ["sampler.steps=3"])):
        diffexp("sample", run, "count=4", *words, "memory_gb=2", cwd=folder)
        few = ["steps=[3]", "samplers.eta-1=null"] if run == "latent" else []
        done = diffexp("evaluate", run, "count=60", "repeats=1", "batch_size=30", *few, cwd=folder, **cache)
        assert {"gan": "prior-temperature1", "latent": "ddim-eta0-unclipped"}[run] in done.stdout
        exported = diffexp("export", run, cwd=folder).stdout.split(":")[0]
        diffexp("sample", exported, "count=2", f"out={run}.png", *words, cwd=folder)
        refused = diffexp("export", run, "format=diffusers", f"out={run}-d", cwd=folder, expect=2)
        assert "model.name: expected diffusion, the only model that diffusers can load" in refused.stderr
    assert sorted(each.name for each in (folder / "gan" / "drawings").iterdir()) == [
        "step-00000004-prior-temperature=0.5-count=4.png"
    ]


def test_a_likelihood_is_told_or_missed(here):
    folder, _ = here
    done = diffexp("evaluate", "vae", "metrics=bpd", "count=20", cwd=folder)
    assert "evidence lower bound" in done.stdout
    refused = diffexp("evaluate", "gan", "metrics=bpd", "count=20", cwd=folder, expect=2)
    assert "expected a model with a likelihood, got GANModule" in refused.stderr


def test_they_stand_in_one_report(here):
    folder, _ = here
    page = folder / "page.html"
    diffexp("report", "gan", "vae", "latent", f"--out={page}", cwd=folder)
    text = page.read_text()
    for words in ("prior-temperature1", "ddim-eta0-unclipped", "evidence lower bound", "Noise schedules"):
        assert words in text
    assert "Score against network calls" in text
    assert "Score against optim.lr" not in text  # which is not what tells a GAN from a VAE
    told = diffexp("compare", "gan", "vae", cwd=folder).stdout
    assert "latent_dim" in told


def test_a_gan_is_reproduced(here):
    folder, cache = here
    done = diffexp("reproduce", "gan", cwd=folder, **cache)
    assert "bit for bit" in done.stdout


def test_a_latent_diffusion_tells_what_its_autoencoder_loses(here):
    folder, _ = here
    first = json.loads((folder / "latent" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["step"] == 0
    assert 0 < first["train/autoencoder_rmse"] < 2
