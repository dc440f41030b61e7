"""Schema of the generative adversarial network."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from diffexp.config.context import Context
from diffexp.config.fields import number
from diffexp.config.schemas.models.base import MODELS, PriorModelConfig, halving_problems


@MODELS.register("gan")
@dataclass
class GANConfig(PriorModelConfig):
    """A generative adversarial network (Goodfellow et al. 2014) of the size of DCGAN (Radford et al. 2016).

    Keys:
        loss: loss of the generator and the discriminator.
        latent_dim: dimension of the noise vector z.
        widths: channels of the generator's levels, from the image's resolution; each further level halves the height.
        discriminator_widths: channels of the discriminator's levels, in the same order.
        r1: weight γ of the penalty γ/2 E ‖∇D(x)‖² on real images (Mescheder et al. 2018); 0 disables it.
        discriminator_lr: the discriminator's learning rate as a multiple of optim.lr.
    """

    logged: ClassVar[tuple[str, ...]] = ("generator", "discriminator", "penalty")

    training_only: ClassVar[tuple[str, ...]] = ("loss", "r1", "discriminator_lr")

    name: str = "gan"
    loss: Literal["non_saturating", "hinge"] = "non_saturating"
    latent_dim: int = number(100, at_least=1, at_most=1_000_000)
    widths: list[int] = number([64, 128, 256], at_least=1, at_most=65_536)
    discriminator_widths: list[int] = number([64, 128, 256], at_least=1, at_most=65_536)
    r1: float = number(1.0, at_least=0)
    discriminator_lr: float = number(1.0, above=0)

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        yield from halving_problems(self.widths, context.image_size)
        for _, problem in halving_problems(self.discriminator_widths, context.image_size):
            yield "discriminator_widths", problem
