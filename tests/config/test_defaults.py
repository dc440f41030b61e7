"""Defaults adapt to what a user sets; what a user names is refused where it does not fit."""

import pytest

from diffexp.config.load import load_evaluate_request, load_experiment, load_sample_request
from diffexp.errors import UserError

LATENT = ["data.name=digits", "model.autoencoder=anywhere"]


def test_few_timesteps_need_no_word_about_samplers():
    experiment = load_experiment("digits", ["model.timesteps=20"])
    for samplers in (experiment.sample_grid.samplers, experiment.score.samplers):
        assert samplers["ddim-50"].steps == 20
    assert load_sample_request([], experiment).sampler.steps == 20
    assert load_evaluate_request("evaluate/usual", [], experiment).samplers["ddim-20"].steps == 20
    without = load_experiment("digits", ["model.timesteps=20", "sample_grid.samplers.ddim-50=null"])
    assert [name for name, sampler in without.sample_grid.samplers.items() if sampler is not None] == ["ddpm"]


def test_steps_that_a_user_names_are_refused():
    with pytest.raises(UserError, match=r"samplers\.mine\.steps: expected an integer <= model\.timesteps = 20, got 50"):
        load_experiment("digits", ["model.timesteps=20", "sample_grid.samplers.mine={name: ddim, steps: 50}"])


@pytest.mark.parametrize(
    ("override", "expected"),
    [("data.image_size=256", [32]), ("data.image_size=64", [16]), ("data.image_size=24", [12])],
)
def test_attention_is_at_the_level_nearest_to_16(override, expected):
    assert load_experiment("image_folder", ["data.path=x", override]).model.network.attention_resolutions == expected
    with pytest.raises(UserError, match=r"command line: model\.network\.attention_resolutions: expected heights"):
        load_experiment("image_folder", ["data.path=x", override, "model.network.attention_resolutions=[7]"])


def test_groups_divide_the_channels():
    given = ["data.path=x", "model.network.base_channels=48"]
    assert load_experiment("image_folder", given).model.network.norm_num_groups == 16
    with pytest.raises(UserError, match=r"norm_num_groups: expected a divisor of .* got 32\. Use 16, for example\."):
        load_experiment("image_folder", [*given, "model.network.norm_num_groups=32"])


def test_heads_divide_the_width():
    transformer = ["model.name=autoregressive", "model.network.width=66"]  # digits has the keys of a U-Net
    assert load_experiment("digits", transformer).model.network.heads == 2


def test_without_an_average_the_raw_weights_are_used():
    experiment = load_experiment("digits", ["ema=null"])
    assert experiment.sample_grid.weights == experiment.score.weights == "raw"
    assert load_sample_request([], experiment).weights == "raw"
    assert load_sample_request(["weights=ema"], experiment).weights == "ema"  # which the checkpoint refuses
    assert load_evaluate_request(None, [], experiment).weights == "raw"


def test_samplers_of_latents_do_not_clip():
    experiment = load_experiment("families/digits_latent_diffusion", LATENT)
    assert not load_sample_request(["sampler.name=dpmpp"], experiment).sampler.clip_sample
    with pytest.raises(UserError, match=r"sampler\.clip_sample: expected false, got true"):
        load_sample_request(["sampler.name=dpmpp", "sampler.clip_sample=true"], experiment)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.image_size=100", r"default: model\.network\.channel_multipliers: expected data\.image_size to be divis"),
        ("model.schedule.zero_terminal_snr=true", r"prediction: expected v or x0 .* Set model\.prediction=v\."),
        ("training.devices=3", r"batch_size: expected a multiple of .*, got 64\. Set batch_size to 63, for example\."),
    ],
)
def test_defaults_that_would_change_the_experiment_are_named_instead(override, message):
    with pytest.raises(UserError, match=message):
        load_experiment("image_folder", ["data.path=x", override])
