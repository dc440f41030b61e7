import math

import pytest
import torch

from diffexp.config.schemas.requests import LikelihoodConfig
from diffexp.config.schemas.samplers import PriorConfig
from diffexp.models.flow import Flow, FlowModule


def flow(shape=(1, 4, 4), levels=2, spread=0.1):
    torch.manual_seed(0)
    built = Flow(shape, levels, 3, 8).double()
    for weights in built.parameters():  # away from the identity that it starts as
        weights.data += spread * torch.randn_like(weights)
    return built


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 8, 4)], ids=str)
def test_the_inverse_is_the_inverse(shape):
    built = flow(shape)
    x = torch.randn(5, *shape, dtype=torch.float64)
    with torch.no_grad():
        z, _ = built(x)
        assert z.shape == (5, math.prod(shape))
        assert (z - x.flatten(1)).abs().max() > 0.1
        torch.testing.assert_close(built.inverse(z), x, rtol=0, atol=1e-10)
        single = built.float()
        torch.testing.assert_close(single.inverse(single(x.float())[0]), x.float(), rtol=0, atol=1e-4)


def test_the_log_determinant_is_the_jacobians():
    built = flow()
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    _, found = built(x)
    for image, log_det in zip(x, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda each: built(each[None])[0][0], image).reshape(16, 16)
        assert log_det.item() == pytest.approx(torch.linalg.slogdet(jacobian).logabsdet.item(), abs=1e-9)


def test_each_level_lets_half_of_its_channels_go():
    assert flow((1, 8, 8), levels=3).shapes == [(2, 4, 4), (4, 2, 2), (16, 1, 1)]


def test_the_density_is_that_of_the_change_of_variables():
    built = flow(spread=0.02).float()
    model = FlowModule((1, 4, 4), built)
    images, uniform = torch.randint(256, (1, 1, 4, 4)) / 127.5 - 1, torch.rand(1, 1, 4, 4)

    def to_z(level):
        return built((0.05 + 0.9 * level / 256).logit())[0]

    level = (images + 1) * 127.5 + uniform
    jacobian = torch.autograd.functional.jacobian(to_z, level).reshape(16, 16)
    density = torch.distributions.Normal(0.0, 1.0).log_prob(to_z(level)).sum() + torch.linalg.slogdet(jacobian)[1]
    assert model.bits(images, uniform).item() == pytest.approx(-density.item() / math.log(2) / 16, rel=1e-4)


def test_samples_are_as_likely_as_they_should_be():
    """Samples of the model have the model's entropy; so the levels are cut and the density measured alike."""
    model = FlowModule((1, 4, 4), flow(spread=0.02).float())
    images = model.sample(PriorConfig(), range(2000), 3)
    assert torch.equal(((images + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1, images)
    found = model.bits_per_dim(((images + 1) * 127.5).round().to(torch.uint8), range(2000), 0, LikelihoodConfig())
    # -log2 p at the samples before they were cut: within a level the density hardly changes
    z = torch.randn(20_000, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        inside = model.flow.inverse(z).sigmoid()
        level = ((inside - 0.05) / 0.9 * 256).clamp(0, 255.999)
        expected = model.bits((level.floor()) / 127.5 - 1, level - level.floor()).mean()
    spread = found["dequantised"].std().item() / 2000**0.5
    assert found["dequantised"].mean().item() == pytest.approx(expected.item(), abs=5 * spread + 0.02)
