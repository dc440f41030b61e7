"""Diffusion in the latent space of a variational autoencoder (Rombach et al. 2022)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from diffexp.config.schemas.models.base import MODELS
from diffexp.config.schemas.models.vae import VAEConfig
from diffexp.config.schemas.requests import LikelihoodConfig
from diffexp.config.schemas.samplers import DiffusionSamplerConfig
from diffexp.models.base import GenerativeModel, NoiseOfShape, OnCall
from diffexp.models.batch import Batch
from diffexp.models.diffusion import DiffusionModule
from diffexp.models.loss_meter import PerSampleLoss
from diffexp.models.vae import VAEModule


class LatentDiffusionModule(DiffusionModule):
    """Learns z/s, z from the encoder of x, as `DiffusionModule` learns images; samples are decoded.

    s is the standard deviation of the first batch's latents (section G of the paper), so that z/s is of the size that
    noise schedules are made for. The autoencoder does not learn.

    Args:
        diffusion: what `DiffusionModule` takes, for the latents.
        images: (C, H, W) of the images.
        autoencoder: a trained one.
        more: what else `DiffusionModule` takes.
    """

    def __init__(self, *diffusion: Any, images: tuple[int, int, int], autoencoder: VAEModule, **more: Any) -> None:
        super().__init__(*diffusion, **more)
        self.image_shape = images
        self.autoencoder = autoencoder.requires_grad_(False)
        self.latent_std: Tensor
        self.register_buffer("latent_std", torch.zeros(()))

    @classmethod
    def from_config(  # type: ignore[override]  # of other keys
        cls, image_shape: tuple[int, int, int], *, autoencoder: str, vae: VAEConfig, **of_latents: Any
    ) -> Self:
        """Build the module that a config describes; training takes the autoencoder's weights from `autoencoder`.

        Args:
            image_shape: (C, H, W) of the images.
            autoencoder: the run, checkpoint or exported file of a trained one.
            vae: keys of its model.
            of_latents: what `DiffusionModule.from_config` takes.

        Raises:
            UserError: if the schedule is invalid at this T.
        """
        first = MODELS.build(vae, image_shape)
        assert isinstance(first, VAEModule)
        return super().from_config(first.latent_shape, images=image_shape, autoencoder=first, **of_latents)

    def encode(self, images: Tensor, noise: Tensor) -> Tensor:
        """z of images (B, C, H, W) in [-1, 1], drawn from the encoder's distribution with `noise` of z's shape."""
        with torch.no_grad():
            mean, log_std = self.autoencoder.encode(images)
            return mean + log_std.exp() * noise

    def per_sample_loss(self, batch: Batch) -> PerSampleLoss:
        """Compute those of the latents."""
        z = self.encode(batch.images, self.draw(len(batch.images), self.x_shape, "latents").normals)
        if self.trainer.global_step == 0 and not self.latent_std:
            self._begin(batch.images, z)
        return super().per_sample_loss(replace(batch, images=z / self.latent_std))

    def _begin(self, images: Tensor, z: Tensor) -> None:
        """Take s from the first batch, and log what the autoencoder loses."""
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
        """Latents, drawn as `DiffusionModule` draws images, decoded."""
        z = super().sample(sampler, indices, seed, on_call)
        with self.as_trained():
            return self.autoencoder.decode(z * self.latent_std)

    def estimate_bits(
        self, images: Tensor, noise: NoiseOfShape, wanted: LikelihoodConfig, on_call: OnCall | None
    ) -> dict[str, Tensor]:
        """It has none: that of latents says nothing of images."""
        return GenerativeModel.estimate_bits(self, images, noise, wanted, on_call)

    def likelihood_calls(self, wanted: LikelihoodConfig) -> dict[str, int]:
        """Return no estimate: there is no likelihood."""
        return {}
