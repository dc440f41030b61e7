"""`diffexp evaluate … metrics=bpd`."""

import json

import pytest
import torch

from diffexp.checkpoints.load import build_trained, load_trained
from diffexp.commands.likelihood import evaluate_likelihood
from diffexp.config.load import load_evaluate_request
from diffexp.config.schemas.requests import LikelihoodConfig, estimate_settings
from diffexp.config.schemas.samplers import DDPMConfig
from diffexp.data.datamodule import ImageDataModule
from diffexp.data.images import to_float
from diffexp.errors import UserError
from diffexp.models.base import GenerativeModel
from diffexp.models.build import build_model
from diffexp.models.diffusion import DiffusionModule
from tests.helpers.small import experiment, fit


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tmp_path_factory.mktemp("likelihood") / "run"
    fit(run, "training.max_steps=30", "sample_grid=null", "model.loss=hybrid", "optim.lr=2e-3")
    return load_trained(run)


def request(trained, *overrides):
    keys = ["metrics=bpd", "count=20", "likelihood.terms=20", "likelihood.ode_steps=10", "weights=raw", *overrides]
    return load_evaluate_request("evaluate/ddim_table", keys, trained.experiment)


@pytest.mark.slow
def test_batches_and_interruptions_change_nothing(trained, tmp_path, monkeypatch):
    whole, folder = evaluate_likelihood(trained, request(trained, f"out={tmp_path / 'whole'}"))
    assert {name: len(values) for name, values in whole.values.items()} == {"bound": 20, "ode": 20}
    assert "| variational bound (at most) | learned, 20 terms |" in (folder / "likelihood.md").read_text()
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


@pytest.mark.slow
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


def test_the_variance_is_the_samplers_unless_another_is_asked_for_and_is_recorded(trained, tmp_path):
    def resolved(model, *variance):
        return model.resolved_likelihood(LikelihoodConfig(*variance)).variance

    learned, simple = build_trained(trained, "raw", "cpu"), build_model(experiment())
    assert resolved(learned) == "learned"
    assert resolved(simple) == DDPMConfig().variance == "fixed_large"
    assert resolved(simple, "test", 100, "fixed_small") == "fixed_small"

    bits = {}
    for variance in ("null", "learned", "fixed_large", "fixed_small"):
        out = f"out={tmp_path / variance}"
        keys = ["count=4", out, "likelihood.ode_steps=null", f"likelihood.variance={variance}"]
        found, _ = evaluate_likelihood(trained, request(trained, *keys))
        bits[variance] = found.values["bound"]
        recorded = json.loads((tmp_path / variance / "likelihood.json").read_text())["about"]["likelihood"]
        assert recorded["variance"] == ("learned" if variance == "null" else variance)
        assert recorded["terms"] == 20
    assert bits["null"] == bits["learned"]
    assert len({tuple(values) for values in bits.values()}) == 3
    with pytest.raises(UserError, match="variance: expected a fixed variance, got learned"):
        load_evaluate_request(None, ["metrics=bpd", "likelihood.variance=learned"], experiment())


def test_records_from_before_the_variance_was_resolved_do_not_name_one():
    about = {"likelihood": {"variance": "fixed_small", "terms": None}, "network_calls": {"bound": 1000, "ode": 98}}
    assert estimate_settings("bound", about) == "1000 terms"
    assert estimate_settings("bound", {**about, "version": 2}) == "fixed_small, 1000 terms"
    assert estimate_settings("ode", about) == "50 levels"


def test_a_model_without_likelihood_and_another_evaluations_folder_are_refused(trained, tmp_path, monkeypatch):
    evaluate_likelihood(trained, request(trained, f"out={tmp_path}", "count=2"))
    with pytest.raises(UserError, match="expected a folder without another evaluation"):
        evaluate_likelihood(trained, request(trained, f"out={tmp_path}", "count=2", "seed=1"))
    (tmp_path / "likelihood.json").write_text("{")
    with pytest.raises(UserError, match="got a damaged file"):
        evaluate_likelihood(trained, request(trained, f"out={tmp_path}", "count=2"))
    monkeypatch.setattr(DiffusionModule, "estimate_bits", GenerativeModel.estimate_bits)
    with pytest.raises(UserError, match="expected a model with a likelihood, got DiffusionModule"):
        evaluate_likelihood(trained, request(trained, f"out={tmp_path / 'none'}"))


def test_rounded_weights_are_refused(trained):
    with pytest.raises(UserError, match=r"precision: expected 32-true, .* got bf16-true"):
        evaluate_likelihood(trained, request(trained, "precision=bf16-true"))
