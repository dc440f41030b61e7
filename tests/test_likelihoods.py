"""`diffexp evaluate … metrics=bpd`."""

import json

import pytest
import torch

from diffexp.config import load_evaluate_request
from diffexp.data.datamodule import ImageDataModule
from diffexp.data.images import to_float
from diffexp.errors import UserError
from diffexp.likelihoods import evaluate_likelihood
from diffexp.models.base import GenerativeModel
from diffexp.models.building import build_model
from diffexp.models.diffusion import DiffusionModule
from diffexp.trained import build_trained, load_trained
from tests.small import fit


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tmp_path_factory.mktemp("likelihood") / "run"
    fit(run, "training.steps=30", "sample_grid=null", "model.loss=hybrid", "optim.lr=2e-3")
    return load_trained(run)


def request(trained, *overrides):
    keys = ["metrics=bpd", "count=20", "likelihood.terms=20", "likelihood.ode_steps=10", "weights=raw", *overrides]
    return load_evaluate_request("evaluate/ddim_table", keys, trained.experiment)


def test_batches_and_interruptions_change_nothing(trained, tmp_path, monkeypatch):
    whole, folder = evaluate_likelihood(trained, request(trained, f"out={tmp_path / 'whole'}"))
    assert {name: len(values) for name, values in whole.values.items()} == {"bound": 20, "ode": 20}
    assert "| variational bound (at most) |" in (folder / "likelihood.md").read_text()
    original, calls = DiffusionModule.bits_per_dim, []

    def interrupted(self, images, indices, *others):
        calls.append(indices)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, images, indices, *others)

    monkeypatch.setattr(DiffusionModule, "bits_per_dim", interrupted)
    parts = request(trained, f"out={tmp_path / 'parts'}", "batch_size=7")
    with pytest.raises(KeyboardInterrupt):
        evaluate_likelihood(trained, parts)
    assert len(json.loads((tmp_path / "parts" / "likelihood.json").read_text())["values"]["ode"]) == 14
    again, _ = evaluate_likelihood(trained, parts)
    assert [len(each) for each in calls] == [7, 7, 6, 6]
    for name, values in whole.values.items():
        assert again.values[name] == pytest.approx(values, rel=1e-4)


def test_training_has_made_the_images_likelier_and_noise_stays_unlikely(trained):
    wanted = request(trained).likelihood
    model, untrained = build_trained(trained, "raw", "cpu"), build_model(trained.experiment).eval()
    images = ImageDataModule.from_config(trained.experiment.data, 1, 0).images("test").fetch(torch.arange(16))
    noise = torch.randint(0, 256, images.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert to_float(noise).std() > 0.5
    bits = {
        name: each.bits_per_dim(of, range(16), 0, wanted)["bound"].mean().item()
        for name, each, of in (("real", model, images), ("before", untrained, images), ("noise", model, noise))
    }
    assert bits["real"] < bits["before"] - 0.3
    assert bits["noise"] > 7.9  # no model can do better on average than log₂ 256, but by chance


def test_a_model_without_likelihood_and_another_evaluations_folder_are_refused(trained, tmp_path, monkeypatch):
    evaluate_likelihood(trained, request(trained, f"out={tmp_path}", "count=2"))
    with pytest.raises(UserError, match="holds another evaluation"):
        evaluate_likelihood(trained, request(trained, f"out={tmp_path}", "count=2", "seed=1"))
    (tmp_path / "likelihood.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        evaluate_likelihood(trained, request(trained, f"out={tmp_path}", "count=2"))
    monkeypatch.setattr(DiffusionModule, "bits_per_dim", GenerativeModel.bits_per_dim)
    with pytest.raises(UserError, match="DiffusionModule has no likelihood"):
        evaluate_likelihood(trained, request(trained, f"out={tmp_path / 'none'}"))
