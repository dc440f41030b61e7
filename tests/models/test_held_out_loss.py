"""`held_out_loss`: what a validation measures."""

import pytest
import torch

from diffexp.config.load import load_experiment
from diffexp.config.schemas.models.base import MODELS
from diffexp.config.schemas.requests import LikelihoodConfig
from diffexp.data.images import to_float
from diffexp.diffusion import schedules
from diffexp.diffusion.predictions import PREDICTIONS, Prediction
from diffexp.diffusion.schedules import Schedule
from diffexp.errors import UserError
from diffexp.models.build import build_model
from diffexp.models.diffusion import DiffusionModule
from diffexp.models.vae import VAEModule
from tests.helpers.sets import digits
from tests.helpers.small import experiment

IMAGES = digits()[:64]
SCHEDULE = Schedule(schedules.linear(100, rescale="1000/T"))


class OfPixels(torch.nn.Module):
    """The best linear estimate of x_0 from x_t with one mean and variance for all pixels, as any prediction."""

    def __init__(self, prediction):
        super().__init__()
        self.prediction = prediction
        self.mean, self.variance = to_float(IMAGES).mean(), to_float(IMAGES).var()

    def forward(self, x_t, t):
        signal, sigma = SCHEDULE.levels(t, like=x_t.double())
        gain = signal * self.variance / (signal**2 * self.variance + sigma**2)
        x0 = self.mean + gain * (x_t - signal * self.mean)
        epsilon = (x_t - signal * x0) / sigma
        outputs = {"x0": x0, "v": signal * epsilon - sigma * x0, "epsilon": epsilon}
        to_output = (SCHEDULE.betas.sqrt() / (1 - SCHEDULE.alphas_cumprod).sqrt())[t].view(-1, 1, 1, 1)
        return outputs.get(self.prediction, epsilon * to_output).float()


def module(prediction):
    return DiffusionModule((1, 8, 8), OfPixels(prediction), SCHEDULE, prediction)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_one_network_has_one_loss_whatever_it_predicts(prediction):
    found = module(prediction).held_out_loss(IMAGES, None, range(64), 0)
    expected = module("x0").held_out_loss(IMAGES, None, range(64), 0)
    assert Prediction(prediction, SCHEDULE).name == prediction
    torch.testing.assert_close(found.bits_per_dim, expected.bits_per_dim, rtol=2e-5, atol=0)
    torch.testing.assert_close(found.errors, expected.errors, rtol=1e-4, atol=1e-6)


def test_the_bits_are_those_of_the_variational_bound_within_its_error():
    """`metrics=bpd` with all terms, from other noise."""
    wanted = LikelihoodConfig(variance="fixed_small", terms=None, ode_steps=None)
    images, model = digits()[:700], module("epsilon")
    bound = model.bits_per_dim(images, range(700), 1, wanted)["bound"]
    difference = model.held_out_loss(images, None, range(700), 0).bits_per_dim - bound
    error = difference.std() / 700**0.5
    assert abs(difference.mean()) < 3 * error < 0.1


def test_batches_change_rounding_only_and_seeds_the_noise():
    model, images = build_model(experiment()).train(), IMAGES[:16]
    whole = model.held_out_loss(images, None, range(16), 0)
    assert model.training  # as before
    parts = [model.held_out_loss(images[i : i + 7], None, range(16)[i : i + 7], 0) for i in range(0, 16, 7)]
    torch.testing.assert_close(torch.cat([each.errors for each in parts]), whole.errors, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(torch.cat([each.bits_per_dim for each in parts]), whole.bits_per_dim)
    other = model.held_out_loss(images, None, range(16), 1)
    assert not torch.isclose(other.bits_per_dim, whole.bits_per_dim, rtol=1e-3).any()


def test_a_class_conditional_model_gets_the_images_labels():
    model = build_model(experiment("model.classes=10"))
    seen = []
    model.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
    labels = torch.arange(64) % 10
    model.held_out_loss(IMAGES, labels, range(64), 0)
    assert all(torch.equal(each, labels) for each in seen)
    assert len(seen) == 18


def test_another_family_reports_its_likelihood():
    model = VAEModule((1, 8, 8), [8, 16], 2)
    found = model.held_out_loss(IMAGES, None, range(64), 3)
    assert torch.equal(found.bits_per_dim, model.bits_per_dim(IMAGES, range(64), 3, LikelihoodConfig())["elbo"])
    assert found.errors is None


SMALL_FAMILIES = {
    "diffusion": ["model.network={base_channels: 8, channel_multipliers: [1], norm_num_groups: 4}"],
    "latent_diffusion": [
        *("model.autoencoder=x", "model.vae.widths=[8,16]"),
        "model.network={base_channels: 8, channel_multipliers: [1], norm_num_groups: 4}",
    ],
    "gan": ["model.widths=[8,16]", "model.discriminator_widths=[8,16]"],
}


@pytest.mark.parametrize("name", MODELS.names)
def test_the_schema_knows_the_calls_and_whether_a_model_has_a_likelihood(name):
    overrides = [f"model.name={name}", *SMALL_FAMILIES.get(name, [])]
    model, calls = build_model(load_experiment("families/digits", overrides)), []
    if MODELS.schema(name).held_out_calls is None:
        with pytest.raises(UserError, match="expected a model with a likelihood"):
            model.held_out_loss(IMAGES[:2], None, range(2), 0)
    else:
        model.held_out_loss(IMAGES[:2], None, range(2), 0, lambda: calls.append(0))
        assert len(calls) == MODELS.schema(name).held_out_calls
