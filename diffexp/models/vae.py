"""Variational autoencoders (Kingma & Welling 2014)."""

import math
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from diffexp.config.schemas.requests import LikelihoodConfig
from diffexp.config.schemas.samplers import PriorConfig
from diffexp.data.images import to_float
from diffexp.diffusion.bound import log_probability_of_levels
from diffexp.models.base import NoiseOfShape, OnCall
from diffexp.models.batch import Batch
from diffexp.models.loss_meter import LossMeter, PerSampleLoss
from diffexp.models.training_module import TrainingModule
from diffexp.networks.conv import down, up
from diffexp.rng import PerSampleNoise

_LOG_STD = (-7.0, 2.0)  # range of the encoder's log σ


class VAEModule(TrainingModule):
    """A variational autoencoder with a discretised Gaussian decoder over the 256 levels::

        q(z|x) = N(μ(x), σ(x)²),      p(z) = N(0, I),      p(x|z) = N(m(z), s²)
        loss   = -E_q log p(x|z) + β KL(q(z|x) ‖ p(z))

    The loss is in bits per dimension; with β = 1 it is the negative evidence lower bound. s is learned (Rybkin et al.
    2021). z = μ + σ ε is the reparametrisation trick.

    Args:
        image_shape: (C, H, W).
        widths: channels of the levels, see `diffexp.networks.conv.down`.
        latent_channels: channels of z, whose shape is (latent_channels, H/2^(levels-1), W/2^(levels-1)).
        beta: the weight β of the KL term.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        widths: Sequence[int],
        latent_channels: int,
        beta: float = 1.0,
    ) -> None:
        super().__init__(image_shape, LossMeter(["loss", "reconstruction", "kl"]))
        channels, height, width = image_shape
        factor = 2 ** (len(widths) - 1)
        self.latent_shape = (latent_channels, height // factor, width // factor)
        self.beta = beta
        self.encoder = nn.Sequential(down(channels, widths, norm=True), nn.Conv2d(widths[-1], 2 * latent_channels, 1))
        self.decoder = nn.Sequential(nn.Conv2d(latent_channels, widths[-1], 1), up(channels, widths, norm=True))
        self.log_std = nn.Parameter(torch.tensor(-1.0))

    @classmethod
    def from_config(
        cls, image_shape: tuple[int, int, int], *, widths: Sequence[int], latent_channels: int, beta: float
    ) -> Self:
        """Build the module of a config, with weights drawn from torch's default generator."""
        return cls(image_shape, widths, latent_channels, beta)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (B, C, H, W) in [-1, 1] to (μ, log σ) of q(z|x), both with the shape of z."""
        mean, log_std = self.encoder(images).float().chunk(2, dim=1)
        return mean, log_std.clamp(*_LOG_STD)

    def decode(self, z: Tensor) -> Tensor:
        """Map z to m(z), shape (B, C, H, W)."""
        images: Tensor = self.decoder(z).float()
        return images

    def terms(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Compute (-log p(x|z), KL(q(z|x) ‖ p(z))), both in bits per dimension of the images, (B,).

        Args:
            images: x in [-1, 1], on 256 levels, shape (B, C, H, W).
            noise: ε, with the shape of z.
        """
        mean, log_std = self.encode(images)
        decoded = self.decode(mean + log_std.exp() * noise)
        unit = images[0].numel() * math.log(2)
        reconstruction = -log_probability_of_levels(images, decoded, self.log_std.exp()).flatten(1).sum(1)
        return reconstruction / unit, kl_to_prior(mean, log_std) / unit

    def per_sample_loss(self, batch: Batch) -> PerSampleLoss:
        """Compute the loss, its reconstruction term and its KL term of each image, in bits per dimension."""
        noise = self.draw(len(batch.images), self.latent_shape).normals
        reconstruction, kl = self.terms(batch.images, noise)
        losses = reconstruction + self.beta * kl
        return PerSampleLoss(losses, {"loss": losses, "reconstruction": reconstruction, "kl": kl})

    def sample(
        self, sampler: PriorConfig, indices: Sequence[int], seed: int, on_call: Callable[[], object] | None = None
    ) -> Tensor:
        """Return m(z) with z from the prior; see `GenerativeModel.sample`."""
        noise = PerSampleNoise(seed, indices, self.latent_shape, self.device)
        with self.as_trained():
            images = self.decode(sampler.temperature * noise.draw())
        if on_call is not None:
            on_call()
        return images

    def estimate_bits(
        self, images: Tensor, noise: NoiseOfShape, wanted: LikelihoodConfig, on_call: OnCall | None
    ) -> dict[str, Tensor]:
        """Estimate the negative evidence lower bound from one draw of z; see `GenerativeModel.bits_per_dim`."""
        with self.as_trained():
            reconstruction, kl = self.terms(to_float(images), noise(self.latent_shape).draw())
        if on_call is not None:
            on_call()
        return {"elbo": reconstruction + kl}

    def likelihood_calls(self, wanted: LikelihoodConfig) -> dict[str, int]:
        """Return 1 for the only estimate, "elbo"."""
        return {"elbo": 1}


def kl_to_prior(mean: Tensor, log_std: Tensor) -> Tensor:
    """Compute KL(N(μ, σ²) ‖ N(0, I)) = ½ Σ (μ² + σ² - 1 - log σ²) of each image, in nats, (B,)."""
    return 0.5 * (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).flatten(1).sum(1)
