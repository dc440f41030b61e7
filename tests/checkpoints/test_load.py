"""Weights that a training starts from: they must mean there what they mean here."""

import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffexp.checkpoints.export import export_weights
from diffexp.checkpoints.init import check_same_function, start_from
from diffexp.checkpoints.load import TrainedModel, build_trained
from diffexp.checkpoints.stored_config import stored_experiment
from diffexp.config.load import load_experiment
from diffexp.errors import UserError
from diffexp.models.build import build_model
from tests.helpers.small import experiment


@pytest.mark.parametrize(
    ("override", "key", "there", "here"),
    [
        ("model.prediction=v", "model.prediction", "epsilon", "v"),
        ("model.prediction=scaled_epsilon", "model.prediction", "epsilon", "scaled_epsilon"),
        ("model.network.norm_num_groups=2", "model.network.norm_num_groups", "4", "2"),
    ],
)
def test_weights_that_would_compute_something_else_are_refused_by_key(override, key, there, here):
    with pytest.raises(
        UserError, match=rf"compute something else in this model:\n  {key}: expected {there}, got {here}\.\n"
    ):
        check_same_function(experiment(), experiment("init=x", override))
    check_same_function(experiment(), experiment("init=x", override, f"init_allow=[{key}]"))


@pytest.mark.parametrize("key", ["model.prediction", "model.network.norm_num_groups"])
def test_what_is_refused_gives_another_output(key):
    """So that none of the keys is refused for nothing: the same weights, another x̂_0."""
    override = {
        "model.prediction": "model.prediction=v",
        "model.network.norm_num_groups": "model.network.norm_num_groups=2",
    }[key]
    models = [build_model(each).eval() for each in (experiment(), experiment(override))]
    torch.manual_seed(0)
    weights = {name: value + 0.1 * torch.randn_like(value) for name, value in models[0].state_dict().items()}
    found = []
    for model in models:
        model.load_state_dict(weights)
        with torch.no_grad():
            found.append(model.prediction.denoiser(model.network)(torch.ones(1, 1, 8, 8), 5).x0)
    assert (found[0] - found[1]).abs().max() > 1e-2


@pytest.mark.parametrize(
    "override",
    [
        *(
            "model.network.dropout=0.3",
            "model.network.gradient_checkpointing=true",
            "model.network.initialization=ddpm",
        ),
        *("model.weighting.name=p2", "model.timestep_sampling=stratified", "optim.lr=1e-5", "training.max_steps=99"),
    ],
)
def test_what_only_training_knows_may_differ(override):
    check_same_function(experiment(), experiment("init=x", override))


def test_another_schedule_or_T_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        check_same_function(experiment(), experiment("init=x", "model.timesteps=30", "model.schedule.beta_end=0.4"))
    assert "expected model.timesteps = 20, got 30" in caplog.text
    assert "'beta_end': 0.5" in caplog.text


def test_the_loss_of_a_gan_does_not_matter_but_its_family_does():
    gan = load_experiment("families/digits_gan")
    check_same_function(gan, load_experiment("families/digits_gan", ["init=x", "model.loss=hinge", "model.r1=0"]))
    with pytest.raises(UserError, match=r"model\.latent_dim: expected \d+, got 3"):
        check_same_function(gan, load_experiment("families/digits_gan", ["init=x", "model.latent_dim=3"]))
    with pytest.raises(UserError, match=r"model\.name: expected diffusion, got gan"):
        check_same_function(experiment(), replace(gan, init="x"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["init_allow=[model.prediction]"], "init_allow: expected an empty list without init, got model.prediction"),
        (
            ["init=x", "init_allow=[optim.lr]"],
            "init_allow: expected keys of model, such as model.prediction, got optim.lr",
        ),
    ],
)
def test_init_allow_is_checked(keys, message):
    with pytest.raises(UserError, match=message):
        experiment(*keys)
    with pytest.raises(UserError, match=r"got model\.predicton\. Did you mean 'model\.prediction'"):
        check_same_function(experiment(), experiment("init=x", "init_allow=[model.predicton]"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_found_wherever_they_are_taken_over(value, tmp_path):
    model = build_model(experiment())
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trained = TrainedModel(Path("it"), 0, experiment(), {"ema": weights})
    export_weights(trained, "ema", tmp_path / "it.safetensors")
    weights["network.conv_in.weight"].view(-1)[3] = value
    for use in (
        lambda: build_trained(trained, "ema", "cpu"),
        lambda: export_weights(trained, "ema", tmp_path / "bad.safetensors"),
    ):
        with pytest.raises(
            UserError, match=r"expected finite weights, got NaN or infinity in network\.conv_in\.weight"
        ):
            use()
    assert not (tmp_path / "bad.safetensors").exists()
    start_from(build_model(replace(experiment(), seed=1)), tmp_path / "it.safetensors", "init")


def test_a_config_that_is_no_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "config.yaml")  # which would wait for a writer
    assert stored_experiment(tmp_path) is None
