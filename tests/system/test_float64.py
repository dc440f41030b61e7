"""On a device without float64, as Apple's MPS, models train, sample and are scored as on a CPU."""

import pytest
import torch

from diffexp.config.load import load_experiment
from diffexp.data.datamodule import ImageDataModule
from diffexp.data.images import to_float
from diffexp.diffusion.timesteps import ImportanceSampler
from diffexp.evaluation.extractors.digits_v1 import load as digits_extractor
from diffexp.evaluation.metrics.metric_set import MetricSet
from diffexp.evaluation.reference import of_images
from diffexp.evaluation.sample_scores import score_samples
from diffexp.models.build import build_model
from diffexp.rng import RandomNumbers
from diffexp.system.devices import float64_device
from tests.helpers.pocket import on_pocket, on_pocket_from_the_start
from tests.helpers.small import experiment
from tests.models.test_families import SMALL

DIFFUSION = (
    [],
    ["model.loss=hybrid", "sample_grid.samplers.ddpm.variance=learned"],
    ["model.timestep_sampling=importance"],
    ["model.classes=10"],
)


def test_the_simulated_device_refuses_float64_and_two_devices_at_once():
    def check(device):
        x = torch.ones(3).to(device)
        assert (x + 1).cpu().tolist() == [2, 2, 2]
        with pytest.raises(TypeError, match="no float64"):
            x.double()
        with pytest.raises(AssertionError, match="two devices"):
            x + torch.ones(3)

    on_pocket(check)


def test_random_numbers_are_those_of_the_cpu():
    positions = torch.tensor([0, 5, 2**40])
    expected = RandomNumbers(7, positions).draws(0, 2, (1, 4, 4))

    def check(device):
        found = RandomNumbers(7, positions.to(device)).draws(0, 2, (1, 4, 4))
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one.normals.cpu(), other.normals)
            assert one.uniforms.dtype == torch.float32
            difference = other.uniforms - one.uniforms.cpu().double()
            assert difference.min() >= 0
            assert difference.max() < 2**-24

    on_pocket(check)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp", "unipc", "heun"])
def test_samples_are_those_of_the_cpu(sampler):
    wanted = experiment(
        "sample_grid.samplers.ddim-5=null", f"sample_grid.samplers.x={{'name': '{sampler}', 'steps': 5}}"
    )
    sampler = wanted.sample_grid.samplers["x"]
    model = build_model(wanted)
    expected = model.sample(sampler, range(3), 0)

    def check(device):
        found = model.to(device).sample(sampler, range(3), 0)
        assert found.device == device
        assert torch.equal(found.cpu(), expected)

    on_pocket(check)


@pytest.mark.parametrize("family", ["diffusion", "vae", "flow", "pixel_rnn"])
def test_held_out_losses_are_those_of_the_cpu(family):
    model = build_model(load_experiment(f"families/digits_{family}", SMALL[family]))
    images = torch.arange(3 * 64, dtype=torch.uint8).view(3, 1, 8, 8)
    expected = model.held_out_loss(images, None, range(3), 0)

    def check(device):
        found = model.to(device).held_out_loss(images.to(device), None, range(3), 0)
        torch.testing.assert_close(found.bits_per_dim.cpu(), expected.bits_per_dim)
        if expected.errors is not None:
            torch.testing.assert_close(found.errors.cpu(), expected.errors)

    on_pocket(check)


@pytest.mark.parametrize("family", ["gan", "vae", "flow", "pixel_rnn", "transformer"])
def test_the_other_families_sample_as_on_the_cpu(family):
    wanted = load_experiment(f"families/digits_{family}", SMALL[family])
    sampler = next(iter(wanted.model.default_samplers().values()))
    model = build_model(wanted)
    expected = model.sample(sampler, range(2), 0)

    def check(device):
        assert torch.equal(model.to(device).sample(sampler, range(2), 0).cpu(), expected)

    on_pocket(check)


@pytest.mark.slow
def test_losses_and_gradients_are_those_of_the_cpu():
    on_pocket_from_the_start(check_losses_and_gradients)


def check_losses_and_gradients(device):
    for keys in DIFFUSION:
        wanted = experiment(*keys)
        model = build_model(wanted)
        images = ImageDataModule.from_config(wanted.data, 1, 0).images("train")
        x0 = to_float(images.fetch(torch.arange(4)))
        expected = step(model, x0)
        for one, other in zip(step(model.to(device), x0.to(device)), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0, msg=lambda text, keys=keys: f"{keys}: {text}")


def step(model, x0):
    """Timesteps, losses and gradients of one training step, on the CPU."""
    model.zero_grad()
    labels = torch.arange(4).to(x0.device) if model.classes is not None else None
    (draw,) = RandomNumbers(3, torch.arange(4).to(x0.device)).draws(0, 1, x0.shape[1:])
    noise = model.training_noise.sample(draw, None, labels, 4, 0)
    error, minimized = model.loss(x0, noise)
    minimized.mean().backward()
    if isinstance(model.timesteps, ImportanceSampler):
        model.timesteps.add(noise.t, minimized.detach())
        assert float(model.timesteps.squares.sum()) > 0
    return [each.detach().cpu() for each in (noise.t, error, minimized, *(p.grad for p in model.parameters()))]


def test_scores_are_those_of_the_cpu():
    wanted = experiment()
    sampler = wanted.sample_grid.samplers["ddim-5"]
    model = build_model(wanted)
    images = ImageDataModule.from_config(wanted.data, 1, 0).images("train")

    def scores(device):
        extractor = digits_extractor().to(float64_device(device))
        metrics = MetricSet.of(of_images(images, extractor, 100, "digits"), extractor, 40)
        return score_samples(model.to(device), sampler, metrics, range(40), 0, 20).scores.as_dict()

    expected = scores(torch.device("cpu"))
    assert expected["fd"]["value"] > 1
    on_pocket(lambda device: _require_equal(scores(device), expected))


def _require_equal(found, expected):
    assert found == expected
