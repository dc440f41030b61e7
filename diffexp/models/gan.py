"""Generative adversarial networks (Goodfellow et al. 2014)."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from diffexp.config.schemas.samplers import PriorConfig
from diffexp.models.batch import Batch
from diffexp.models.loss_meter import LossMeter, PerSampleLoss
from diffexp.models.training_module import TrainingModule
from diffexp.networks.conv import down, up
from diffexp.rng import PerSampleNoise

GanLoss = Literal["non_saturating", "hinge"]


class Generator(nn.Module):
    """A generator: z (B, latent_dim) → images (B, C, H, W) in (-1, 1).

    Args:
        image_shape: (C, H, W).
        latent_dim: dimension of z.
        widths: channels of the levels, see `diffexp.networks.conv.up`.
    """

    def __init__(self, image_shape: tuple[int, int, int], latent_dim: int, widths: Sequence[int]) -> None:
        super().__init__()
        channels, height, width = image_shape
        factor = 2 ** (len(widths) - 1)
        self.grid = (widths[-1], height // factor, width // factor)
        self.enter = nn.Linear(latent_dim, math.prod(self.grid))
        self.up = up(channels, widths, norm=True)

    def forward(self, z: Tensor) -> Tensor:
        """Map z (B, latent_dim) to images (B, C, H, W)."""
        images: Tensor = self.up(self.enter(z).unflatten(1, self.grid)).tanh()
        return images


class Discriminator(nn.Module):
    """A discriminator: images (B, C, H, W) → logits of being real (B,).

    It has no normalisation, which R1 does not need.

    Args:
        image_shape: (C, H, W).
        widths: channels of the levels, see `diffexp.networks.conv.down`.
    """

    def __init__(self, image_shape: tuple[int, int, int], widths: Sequence[int]) -> None:
        super().__init__()
        channels, height, width = image_shape
        factor = 2 ** (len(widths) - 1)
        self.down = down(channels, widths, norm=False)
        self.leave = nn.Linear(widths[-1] * (height // factor) * (width // factor), 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B,)."""
        logits: Tensor = self.leave(self.down(images).flatten(1))[:, 0]
        return logits


class GANModule(TrainingModule):
    """Trains both networks in each step, by simultaneous gradient descent with the R1 penalty (Mescheder et al. 2018).

    With the logit d, D = sigmoid(d), and z ~ N(0, I), the losses are::

        generator      -log D(G(z))                     hinge: -d(G(z))
        discriminator  -log D(x) - log(1 - D(G(z)))     hinge: max(0, 1 - d(x)) + max(0, 1 + d(G(z)))
                       + γ/2 ‖∇_x d(x)‖²

    R1, the last term, makes simultaneous gradient descent converge. The sum of the losses is minimised, and each
    network receives the gradient of its own loss only. A step is thus counted, averaged, clipped and resumed as in
    other families.

    Args:
        image_shape: (C, H, W).
        generator: (B, latent_dim) → (B, C, H, W).
        discriminator: (B, C, H, W) → d, (B,).
        latent_dim: dimension of z.
        loss: "non_saturating" or "hinge".
        r1: γ; 0 disables the penalty.
        discriminator_lr: learning rate of the discriminator, as a multiple of the generator's.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        generator: nn.Module,
        discriminator: nn.Module,
        latent_dim: int,
        loss: GanLoss = "non_saturating",
        r1: float = 1.0,
        discriminator_lr: float = 1.0,
    ) -> None:
        super().__init__(image_shape, LossMeter(["loss", "generator", "discriminator", "penalty"]))
        self.generator = generator
        self.discriminator = discriminator
        self.latent_dim = latent_dim
        self.loss: GanLoss = loss
        self.r1 = r1
        self.discriminator_lr = discriminator_lr

    @classmethod
    def from_config(
        cls,
        image_shape: tuple[int, int, int],
        *,
        loss: GanLoss,
        latent_dim: int,
        widths: Sequence[int],
        discriminator_widths: Sequence[int],
        r1: float,
        discriminator_lr: float,
    ) -> Self:
        """Build the module of a config, with weights drawn from torch's default generator."""
        generator = Generator(image_shape, latent_dim, widths)
        discriminator = Discriminator(image_shape, discriminator_widths)
        return cls(image_shape, generator, discriminator, latent_dim, loss, r1, discriminator_lr)

    def learned(self) -> list[dict[str, Any]]:
        """Return one parameter group for the generator, and one for the discriminator with its own learning rate."""
        generator, discriminator = list(self.generator.parameters()), list(self.discriminator.parameters())
        return [{"params": generator}, {"params": discriminator, "lr": self.optim.lr * self.discriminator_lr}]

    def per_sample_loss(self, batch: Batch) -> PerSampleLoss:
        """Compute both losses and the penalty."""
        images = batch.images
        made = self.generator(self.draw(len(images), (self.latent_dim,)).normals)
        fixed = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        convincing: Tensor = functional_call(self.discriminator, fixed, (made,)).float()
        real = images.detach().requires_grad_(self.r1 > 0)
        on_real, on_made = self.discriminator(real).float(), self.discriminator(made.detach()).float()
        penalty = torch.zeros_like(on_real)
        if self.r1 > 0:
            (slope,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
            penalty = 0.5 * self.r1 * slope.float().square().flatten(1).sum(1)
        if self.loss == "hinge":
            generator, discriminator = -convincing, F.relu(1 - on_real) + F.relu(1 + on_made)
        else:
            generator, discriminator = F.softplus(-convincing), F.softplus(-on_real) + F.softplus(on_made)
        losses = generator + discriminator + penalty
        logged = {"loss": losses, "generator": generator, "discriminator": discriminator, "penalty": penalty}
        return PerSampleLoss(losses, logged)

    def sample(
        self, sampler: PriorConfig, indices: Sequence[int], seed: int, on_call: Callable[[], object] | None = None
    ) -> Tensor:
        """Return G(z) with z from the prior; see `GenerativeModel.sample`."""
        noise = PerSampleNoise(seed, indices, (self.latent_dim,), self.device)
        with self.as_trained():
            images: Tensor = self.generator(sampler.temperature * noise.draw()).float()
        if on_call is not None:
            on_call()
        return images
