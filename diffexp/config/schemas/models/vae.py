"""Schema of the variational autoencoder."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from diffexp.config.context import Context
from diffexp.config.fields import number
from diffexp.config.schemas.models.base import MODELS, PriorModelConfig, halving_problems


@MODELS.register("vae")
@dataclass
class VAEConfig(PriorModelConfig):
    """A variational autoencoder (Kingma & Welling 2014) with a Gaussian encoder and latents on a grid.

    Keys:
        widths: channels of the levels, from the image's resolution; each further level halves the height. The latents
            have the height of the last level.
        latent_channels: channels of the latents.
        beta: weight of the KL divergence (Higgins et al. 2017); 1 gives the evidence lower bound.
    """

    held_out_calls: ClassVar[int | None] = 1
    logged: ClassVar[tuple[str, ...]] = ("reconstruction", "kl")

    training_only: ClassVar[tuple[str, ...]] = ("beta",)

    name: str = "vae"
    widths: list[int] = number([32, 64, 64], at_least=1, at_most=65_536)
    latent_channels: int = number(4, at_least=1, at_most=65_536)
    beta: float = number(1.0, above=0)

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        yield from halving_problems(self.widths, context.image_size)
