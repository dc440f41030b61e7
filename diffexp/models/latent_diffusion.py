"""Latent diffusion: diffusion in the latent space of a variational autoencoder (Rombach et al. 2022)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from diffexp.config.schemas.models.base import MODELS
from diffexp.config.schemas.models.vae import VAEConfig
from diffexp.config.schemas.requests import LikelihoodConfig
from diffexp.config.schemas.samplers import DiffusionSamplerConfig
from diffexp.models.base import GenerativeModel, HeldOutLoss, NoiseOfShape, OnCall
from diffexp.models.batch import Batch
from diffexp.models.diffusion import DiffusionModule
from diffexp.models.loss_meter import PerSampleLoss
from diffexp.models.vae import VAEModule


class LatentDiffusionModule(DiffusionModule):
    """Trains `DiffusionModule` on z/s, where z is the encoder's latent of an image, and decodes its samples.

    s is the standard deviation of the first batch's latents, so that z/s has unit variance, as noise schedules assume
    (Rombach et al. 2022, section G). The autoencoder is frozen.

    Args:
        diffusion: arguments of `DiffusionModule`, for the latents.
        images: (C, H, W) of the images.
        autoencoder: a trained autoencoder.
        more: further arguments of `DiffusionModule`.
    """

    def __init__(self, *diffusion: Any, images: tuple[int, int, int], autoencoder: VAEModule, **more: Any) -> None:
        super().__init__(*diffusion, **more)
        self.image_shape = images
        self.autoencoder = autoencoder.requires_grad_(False)
        self.latent_std: Tensor
        self.register_buffer("latent_std", torch.zeros(()))

    @classmethod
    def from_config(  # type: ignore[override]  # has other keys
        cls, image_shape: tuple[int, int, int], *, autoencoder: str, vae: VAEConfig, **of_latents: Any
    ) -> Self:
        """Build the module of a config; training loads the autoencoder's weights from `autoencoder`.

        Args:
            image_shape: (C, H, W) of the images.
            autoencoder: run, checkpoint or exported file of a trained autoencoder.
            vae: keys of its model.
            of_latents: arguments of `DiffusionModule.from_config`.

        Raises:
            UserError: if the schedule is invalid for its T.
        """
        first = MODELS.build(vae, image_shape)
        assert isinstance(first, VAEModule)
        return super().from_config(first.latent_shape, images=image_shape, autoencoder=first, **of_latents)

    def encode(self, images: Tensor, noise: Tensor) -> Tensor:
        """Sample z = μ(x) + σ(x) ε from the encoder's distribution.

        Args:
            images: x in [-1, 1], shape (B, C, H, W).
            noise: ε, with the shape of z.
        """
        with torch.no_grad():
            mean, log_std = self.autoencoder.encode(images)
            return mean + log_std.exp() * noise

    def per_sample_loss(self, batch: Batch) -> PerSampleLoss:
        """Compute the loss of the latents; see `DiffusionModule.per_sample_loss`."""
        z = self.encode(batch.images, self.draw(len(batch.images), self.x_shape, "latents").normals)
        if self.trainer.global_step == 0 and not self.latent_std:
            self._begin(batch.images, z)
        return super().per_sample_loss(replace(batch, images=z / self.latent_std))

    def _begin(self, images: Tensor, z: Tensor) -> None:
        """Set s from the first batch, and log the autoencoder's reconstruction error (RMSE)."""
        reduce = self.trainer.strategy.reduce
        variance = reduce(z.var(), reduce_op="mean")
        lost = reduce((self.autoencoder.decode(z).clamp(-1, 1) - images).square().mean(), reduce_op="mean")
        assert isinstance(variance, Tensor)
        assert isinstance(lost, Tensor)
        self.latent_std.copy_(variance.sqrt())
        for logger in self.loggers:
            logger.log_metrics({"train/autoencoder_rmse": float(lost) ** 0.5}, step=0)

    def sample(
        self,
        sampler: DiffusionSamplerConfig,
        indices: Sequence[int],
        seed: int,
        on_call: Callable[[], object] | None = None,
    ) -> Tensor:
        """Draw latents as `DiffusionModule` draws images, and decode them."""
        z = super().sample(sampler, indices, seed, on_call)
        with self.as_trained():
            return self.autoencoder.decode(z * self.latent_std)

    def estimate_bits(
        self, images: Tensor, noise: NoiseOfShape, wanted: LikelihoodConfig, on_call: OnCall | None
    ) -> dict[str, Tensor]:
        """Raise a UserError: the likelihood of latents is not that of images."""
        return GenerativeModel.estimate_bits(self, images, noise, wanted, on_call)

    def held_out_loss(
        self,
        images: Tensor,
        labels: Tensor | None,
        indices: Sequence[int],
        seed: int,
        on_call: OnCall | None = None,
    ) -> HeldOutLoss:
        """Raise a UserError: the likelihood of latents is not that of images."""
        return GenerativeModel.held_out_loss(self, images, labels, indices, seed, on_call)

    def likelihood_calls(self, wanted: LikelihoodConfig) -> dict[str, int]:
        """Return {}: there is no likelihood."""
        return {}
