"""Schema of diffusion in a variational autoencoder's latent space."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from omegaconf import MISSING

from diffexp.config.context import Context
from diffexp.config.schemas.data import DataConfig
from diffexp.config.schemas.models.base import MODELS
from diffexp.config.schemas.models.diffusion import DiffusionConfig
from diffexp.config.schemas.models.vae import VAEConfig
from diffexp.config.schemas.samplers import DDIMConfig, DDPMConfig, SamplerConfig


@MODELS.register("latent_diffusion")
@dataclass
class LatentDiffusionConfig(DiffusionConfig):
    """Diffusion in the latent space of a trained variational autoencoder (Rombach et al. 2022).

    Keys:
        autoencoder: run, checkpoint or exported file of a model vae trained on the same data. This model's checkpoints
            include its weights, so it is needed only at the start.
        vae: keys of that model.
    """

    bounded: ClassVar[bool] = False
    default_table: ClassVar[str] = "evaluate/eta_latent"
    held_out_levels: ClassVar[tuple[int, ...]] = ()
    held_out_calls: ClassVar[int | None] = None  # the likelihood of latents is not that of images

    training_only: ClassVar[tuple[str, ...]] = (*DiffusionConfig.training_only, "autoencoder")

    name: str = "latent_diffusion"
    autoencoder: str = MISSING
    vae: VAEConfig = field(default_factory=VAEConfig)

    def default_samplers(self) -> dict[str, SamplerConfig]:
        steps = min(self.FEW, self.timesteps)
        return {f"ddim-{steps}": DDIMConfig(steps=steps, clip_sample=False), "ddpm": DDPMConfig(clip_sample=False)}

    def network_shape(self, data: DataConfig) -> tuple[int, int, int]:
        side = data.image_size // 2 ** (len(self.vae.widths) - 1)
        return (self.vae.latent_channels, side, side)

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        yield from super().problems(context)
        if self.loss != "simple":
            yield "loss", f"expected simple, got {self.loss}: the bound is on pixel levels, which latents do not have."

        if self.gradient_variance is not None:
            yield "gradient_variance", "expected null, got a mapping: it is measured on images, not on latents."

    def trained_parts(self) -> dict[str, str]:
        return {"autoencoder": self.autoencoder}
