import math
from itertools import pairwise

import lightning as L
import pytest
import torch
from torch import nn

from diffexp.config.schemas.experiment import OptimConfig
from diffexp.config.schemas.samplers import PriorConfig
from diffexp.models.batch import Batch
from diffexp.models.gan import GANModule

MODES = 8
RADIUS, STD = 0.7, 0.04


def centres():
    angles = torch.arange(MODES) * 2 * math.pi / MODES
    return RADIUS * torch.stack([angles.cos(), angles.sin()], dim=1)


class Ring(torch.utils.data.IterableDataset):
    """Eight narrow Gaussians on a circle."""

    def __iter__(self):
        source = torch.Generator().manual_seed(0)
        while True:
            chosen = centres()[torch.randint(MODES, (256,), generator=source)]
            yield {"images": (chosen + STD * torch.randn(256, 2, generator=source)).view(256, 2, 1, 1)}


def perceptron(*widths):
    layers = [nn.Linear(widths[0], widths[1])]
    for before, width in pairwise(widths[1:]):
        layers += [nn.LeakyReLU(0.2), nn.Linear(before, width)]
    return nn.Sequential(*layers)


def ring_model(loss="non_saturating", steps=0, r1=0.1):
    torch.manual_seed(0)
    generator = nn.Sequential(perceptron(2, 64, 64, 2), nn.Unflatten(1, (2, 1, 1)))
    discriminator = nn.Sequential(nn.Flatten(), perceptron(2, 64, 64, 1), nn.Flatten(0))
    model = GANModule((2, 1, 1), generator, discriminator, 2, loss, r1, 1.0)
    model.optim = OptimConfig(lr=1e-3, betas=[0.0, 0.99])
    if steps:
        trainer = L.Trainer(
            max_steps=steps, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(model, torch.utils.data.DataLoader(Ring(), batch_size=None))
    return model


def modes_found(model):
    """(share of the samples near a mode, how many of these each mode has)."""
    samples = model.sample(PriorConfig(), range(2000), 0)[:, :, 0, 0]
    distance, nearest = torch.cdist(samples, centres()).min(dim=1)
    near = distance < 4 * STD
    return near.float().mean().item(), torch.bincount(nearest[near], minlength=MODES) / near.sum()


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "steps"), [("non_saturating", 2000), ("hinge", 3000)])
def test_a_mixture_is_learned_without_losing_a_mode(loss, steps):
    before, _ = modes_found(ring_model(loss))
    quality, shares = modes_found(ring_model(loss, steps=steps))
    assert before < 0.2
    assert quality > 0.7
    assert shares.min() > 0.5 / MODES, shares


def losses_of(model, images):
    """What a step computes, of the seed's first step."""
    model._trainer = type("Alone", (), {"world_size": 1, "global_rank": 0, "accumulate_grad_batches": 1})()
    model._step = 0
    loss = model.per_sample_loss(Batch(images))
    z = model.draw(len(images), (model.latent_dim,)).normals
    return loss, z


@pytest.mark.parametrize("loss", ["non_saturating", "hinge"])
def test_each_network_gets_the_gradient_of_its_own_loss(loss):
    model = ring_model(loss)
    images = torch.randn(16, 2, 1, 1)
    loss_of_step, z = losses_of(model, images)
    found = torch.autograd.grad(loss_of_step.minimized.mean(), list(model.parameters()))
    real = images.requires_grad_()
    d_real, made = model.discriminator(real), model.generator(z)
    slope = torch.autograd.grad(d_real.sum(), real, create_graph=True)[0].flatten(1)
    penalty = 0.5 * model.r1 * slope.square().sum(1).mean()
    d_made = model.discriminator(made)
    if loss == "hinge":
        of_generator = -d_made.mean()
        of_discriminator = (1 - d_real).clamp(min=0).mean() + (1 + d_made).clamp(min=0).mean()
    else:
        of_generator = -d_made.sigmoid().log().mean()
        of_discriminator = -d_real.sigmoid().log().mean() - (1 - d_made.sigmoid()).log().mean()
    expected = [
        *torch.autograd.grad(of_generator, list(model.generator.parameters()), retain_graph=True),
        *torch.autograd.grad(of_discriminator + penalty, list(model.discriminator.parameters())),
    ]
    torch.testing.assert_close(found, tuple(expected))


def test_r1_is_half_gamma_times_the_squared_slope():
    model = GANModule((1, 1, 3), nn.Sequential(nn.Linear(2, 3), nn.Unflatten(1, (1, 1, 3))), nn.Identity(), 2, r1=4.0)
    weight = torch.tensor([1.0, -2.0, 0.5])

    class Linear(nn.Module):
        def forward(self, images):
            return images.flatten(1) @ weight

    model.discriminator = Linear()
    loss, _ = losses_of(model, torch.randn(5, 1, 1, 3))
    assert loss.logged["penalty"].mean().item() == pytest.approx(0.5 * 4 * weight.square().sum().item())
