"""Diffusion in the latent space of a variational autoencoder (Rombach et al. 2022)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffexp.config.evaluation import LikelihoodConfig
from diffexp.config.experiment import Optim
from diffexp.config.families import VaeConfig
from diffexp.config.models import MODELS
from diffexp.config.samplers import SamplerConfig
from diffexp.models import described
from diffexp.models.base import GenerativeModel
from diffexp.models.diffusion import DiffusionModule
from diffexp.models.vae import VAEModule


class LatentDiffusionModule(DiffusionModule):
    """Learns z/s, z from the encoder of x, as `DiffusionModule` learns images; samples are decoded.

    s is the standard deviation of the first batch's latents (section G of the paper), so that z/s is of the size that
    noise schedules are made for. The autoencoder does not learn.

    Args:
        image_shape: (C, H, W) of the images.
        autoencoder: a trained one.
        diffusion, more: what `DiffusionModule` takes, for the latents.
    """

    def __init__(self, image_shape: tuple[int, int, int], autoencoder: VAEModule, *diffusion: Any, **more: Any) -> None:
        super().__init__(*diffusion, **more)
        self.image_shape = image_shape
        self.autoencoder = autoencoder.requires_grad_(False)
        self.latent_std: Tensor
        self.register_buffer("latent_std", torch.zeros(()))

    def encode(self, images: Tensor, noise: Tensor) -> Tensor:
        """z of images (B, C, H, W) in [-1, 1], drawn from the encoder's distribution with `noise` of z's shape."""
        with torch.no_grad():
            mean, log_std = self.autoencoder.encode(images)
            return mean + log_std.exp() * noise

    def step_losses(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Those of the latents."""
        z = self.encode(images, self.draw(len(images), self.x_shape, "latents").normals)
        if self.trainer.global_step == 0 and not self.latent_std:
            self._begin(images, z)
        return super().step_losses(z / self.latent_std, labels)

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
        self, variant: SamplerConfig, indices: Sequence[int], seed: int, on_call: Callable[[], object] | None = None
    ) -> Tensor:
        """Latents, drawn as `DiffusionModule` draws images, decoded."""
        z = super().sample(variant, indices, seed, on_call)
        with self.as_trained():
            return self.autoencoder.decode(z * self.latent_std)

    def bits_per_dim(
        self,
        images: Tensor,
        indices: Sequence[int],
        seed: int,
        wanted: LikelihoodConfig,
        on_call: Callable[[], object] | None = None,
    ) -> dict[str, Tensor]:
        """It has none: that of latents says nothing of images."""
        return GenerativeModel.bits_per_dim(self, images, indices, seed, wanted, on_call)

    def likelihood_calls(self, wanted: LikelihoodConfig) -> dict[str, int]:
        """None."""
        return {}


def from_config(
    image_shape: tuple[int, int, int],
    optim: Optim,
    seed: int,
    *,
    autoencoder: str,
    vae: VaeConfig,
    **of_latents: Any,
) -> LatentDiffusionModule:
    """The module that a config describes; the autoencoder's weights at `autoencoder` are for the training to take.

    Raises:
        UserError: if the schedule is invalid at this T.
    """
    first = MODELS.build(vae, image_shape, optim, seed)
    assert isinstance(first, VAEModule)
    module = partial(LatentDiffusionModule, image_shape, first)
    built = described.from_config(first.latent_shape, optim, seed, module=module, **of_latents)
    assert isinstance(built, LatentDiffusionModule)
    return built
