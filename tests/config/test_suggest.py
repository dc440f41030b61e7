"""An unknown key is explained by the key that was meant, the component that has it, or the known keys."""

import pytest

from diffexp.config.load import load_experiment, load_sample_request
from diffexp.config.suggest import _SYNONYMS, all_keys
from diffexp.errors import UserError


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("model.T", "model.timesteps"),
        ("T", "model.timesteps"),
        ("model.num_train_timesteps", "model.timesteps"),
        ("model.steps", "model.timesteps"),
        ("lr", "optim.lr"),
        ("training.lr", "optim.lr"),
        ("learning_rate", "optim.lr"),
        ("optm.lr", "optim.lr"),
        (
            "steps",
            "training.max_steps, model.timesteps, sample_grid.samplers.NAME.steps or score.samplers.NAME.steps",
        ),
        ("batch_size", "training.batch_size, score.batch_size or validation.batch_size"),
        ("training.batchsize", "training.batch_size"),
        ("sampel_grid.count", "sample_grid.count"),
        ("count", "sample_grid.count, score.reference.count, score.count or validation.count"),
        ("model.beta_schedule", "model.schedule.name"),
        ("model.guidance_scale", "sample_grid.samplers.NAME.guidance_scale or score.samplers.NAME.guidance_scale"),
        ("ema.decay", "ema.half_life"),
        ("sampler", "sample_grid.samplers or score.samplers"),
        ("sampler.steps", "sample_grid.samplers.NAME.steps or score.samplers.NAME.steps"),
        ("dataset", "data.name"),
    ],
)
def test_the_key_that_was_meant(key, meant):
    with pytest.raises(UserError) as error:
        load_experiment("digits", [f"{key}=1"])
    assert str(error.value) == f"command line: {key}: unknown key. Did you mean {meant}?"


def test_epochs_are_steps():
    with pytest.raises(UserError, match=r"never epochs\. Did you mean training\.max_steps\?$"):
        load_experiment("digits", ["training.max_epochs=3"])


@pytest.mark.parametrize(
    ("key", "place", "components", "chosen"),
    [
        ("data.path", "data.name", "image_folder", "digits"),
        ("model.schedule.beta_start", "model.schedule.name", "linear, scaled_linear or sigmoid", "cosine"),
        ("model.widths", "model.name", "gan or vae", "diffusion"),
        ("model.vae.widths", "model.name", "latent_diffusion", "diffusion"),
        ("sample_grid.samplers.ddpm.eta", "sample_grid.samplers.ddpm.name", "ddim", "ddpm"),
    ],
)
def test_a_key_of_another_component(key, place, components, chosen):
    with pytest.raises(UserError) as error:
        load_experiment("digits", [f"{key}=1"])
    assert f"command line: {key}: this key belongs to {place} = {components}, got {chosen}." in str(error.value)


@pytest.mark.parametrize(
    ("key", "known"),
    [("foo", "name, seed, runs_dir, "), ("model.foo", "model.name, model.timesteps, "), ("foo.bar", "name, seed, ")],
)
def test_nothing_is_suggested_for_a_key_that_is_like_none(key, known):
    with pytest.raises(UserError) as error:
        load_experiment("digits", [f"{key}=1"])
    assert str(error.value).startswith(f"command line: {key}: unknown key. Known keys: {known}")


def test_keys_of_requests():
    experiment = load_experiment("digits")
    for key, meant in (
        ("num_samples", "count"),
        ("num_inference_steps", "sampler.steps"),
        ("eta", "sampler.eta"),
        ("sampler.step", "sampler.steps"),
    ):
        with pytest.raises(UserError, match=f"unknown key. Did you mean {meant}"):
            load_sample_request([f"{key}=1"], experiment)


def test_every_synonym_is_of_a_key():
    from diffexp.config.schemas.requests import EvaluateRequest

    experiment = load_experiment("image_folder", ["data.path=x", "score.count=2048", "model.weighting=min_snr"])
    sampling = load_sample_request(["sampler=ddim"], experiment)
    keys = [
        *all_keys(experiment),
        *all_keys(sampling),
        *all_keys(EvaluateRequest(extractor=experiment.score.extractor)),
    ]
    for end in _SYNONYMS:
        assert any(key == end or key.endswith(f".{end}") for key in keys), end
