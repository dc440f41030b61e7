"""Schemas of the families of generative models beside diffusion, and of how they are sampled."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from omegaconf import MISSING

from diffexp.config.data import DataConfig
from diffexp.config.diffusion import DiffusionConfig
from diffexp.config.fields import number
from diffexp.config.models import MODELS, ModelConfig
from diffexp.config.registry import Choice, Registry
from diffexp.config.samplers import DDIMConfig, DDPMConfig
from diffexp.config.variants import SAMPLERS, VariantConfig

if TYPE_CHECKING:
    from diffexp.config.experiment import Experiment


# --- how they are sampled ------------------------------------------------------------------------


@SAMPLERS.register("prior", "diffexp.models.base:GenerativeModel")
@dataclass
class PriorConfig(VariantConfig):
    """z from N(0, temperature² I), made into an image by one call: of gan, vae and flow.

    Keys:
        temperature: below 1, more usual images and fewer kinds of them.
    """

    name: str = "prior"
    temperature: float = number(1.0, at_least=0)


@SAMPLERS.register("ancestral", "diffexp.models.base:GenerativeModel")
@dataclass
class AncestralConfig(VariantConfig):
    """Pixel after pixel, each from its distribution given those before: of autoregressive models.

    Keys:
        temperature: divides the log-probabilities; below 1, likelier pixels.
    """

    name: str = "ancestral"
    temperature: float = number(1.0, above=0)


def _halvings(widths: list[int], size: int) -> Iterator[tuple[str, str]]:
    """What is wrong with one width a level, each further level half as high."""
    factor = 2 ** (len(widths) - 1) if widths else 1
    if not widths:
        yield "widths", "must have at least one level"
    elif size % factor:
        yield "widths", f"{len(widths)} levels halve the image all but once; {size} is no multiple of {factor}"


# --- autoregressive models -----------------------------------------------------------------------


@dataclass
class PixelNetworkConfig(Choice):
    """The network of an autoregressive model. Its builder gets the shape (H, W·C) of an image's rows of levels."""


PIXEL_NETWORKS = Registry("pixel network", PixelNetworkConfig)


@PIXEL_NETWORKS.register("row_lstm", "diffexp.networks.pixels:RowLSTM")
@dataclass
class RowLSTMConfig(PixelNetworkConfig):
    """The row LSTM of PixelRNN (van den Oord et al. 2016): row after row, all pixels of a row at once in training.

    Keys:
        width: of every layer.
        layers: LSTMs on one another.
    """

    name: str = "row_lstm"
    width: int = number(64, at_least=1)
    layers: int = number(3, at_least=1)


@PIXEL_NETWORKS.register("transformer", "diffexp.networks.pixels:Transformer")
@dataclass
class TransformerConfig(PixelNetworkConfig):
    """A Transformer decoder over the pixels (Vaswani et al. 2017; Chen et al. 2020, "Image GPT").

    Keys:
        width: of every token.
        layers: blocks of attention and perceptron.
        heads: of the attention; must divide the width.
        dropout: probability after attention and perceptron.
    """

    training_only: ClassVar[tuple[str, ...]] = ("dropout",)

    name: str = "transformer"
    width: int = number(128, at_least=1)
    layers: int = number(4, at_least=1)
    heads: int = number(4, at_least=1)
    dropout: float = number(0.0, at_least=0, below=1)

    def problems(self, experiment: "Experiment") -> Iterator[tuple[str, str]]:
        if self.width % self.heads:
            yield "heads", f"{self.heads} does not divide width = {self.width}"


@MODELS.register("autoregressive", "diffexp.models.autoregressive:from_config")
@dataclass
class AutoregressiveConfig(ModelConfig):
    """p(x) = ∏ p(x_i | x_1 … x_{i-1}) over the pixels from the top left, channel by channel; x_i one of 256 levels."""

    variants: ClassVar[type[VariantConfig]] = AncestralConfig

    name: str = "autoregressive"
    network: PixelNetworkConfig = field(default_factory=TransformerConfig)

    def usual_variants(self) -> dict[str, VariantConfig]:
        return {"ancestral": AncestralConfig()}

    def network_calls(self, variant: VariantConfig, data: DataConfig) -> int:
        return data.channels * data.image_size**2


# --- from a latent to an image -------------------------------------------------------------------


@dataclass
class PriorModelConfig(ModelConfig):
    """A model that is sampled from its prior by one call."""

    variants: ClassVar[type[VariantConfig]] = PriorConfig

    def usual_variants(self) -> dict[str, VariantConfig]:
        return {"prior": PriorConfig()}


@MODELS.register("gan", "diffexp.models.gan:from_config")
@dataclass
class GanConfig(PriorModelConfig):
    """A generative adversarial network (Goodfellow et al. 2014), of the size of DCGAN (Radford et al. 2016).

    Keys:
        loss: non_saturating, or hinge.
        latent_dim: of the noise vector z.
        widths: channels of the generator's levels, the image's first, each further one half as high.
        discriminator_widths: the discriminator's.
        r1: γ of γ/2 E ‖∇D(x)‖² over real images (Mescheder et al. 2018); 0 leaves it out.
        discriminator_lr: the discriminator's learning rate as a multiple of optim.lr.
    """

    logged: ClassVar[tuple[str, ...]] = ("generator", "discriminator", "penalty")

    training_only: ClassVar[tuple[str, ...]] = ("loss", "r1", "discriminator_lr")

    name: str = "gan"
    loss: Literal["non_saturating", "hinge"] = "non_saturating"
    latent_dim: int = number(100, at_least=1)
    widths: list[int] = number([64, 128, 256], at_least=1)
    discriminator_widths: list[int] = number([64, 128, 256], at_least=1)
    r1: float = number(1.0, at_least=0)
    discriminator_lr: float = number(1.0, above=0)

    def problems(self, experiment: "Experiment") -> Iterator[tuple[str, str]]:
        yield from _halvings(self.widths, experiment.data.image_size)
        for _, problem in _halvings(self.discriminator_widths, experiment.data.image_size):
            yield "discriminator_widths", problem


@MODELS.register("vae", "diffexp.models.vae:from_config")
@dataclass
class VaeConfig(PriorModelConfig):
    """A variational autoencoder (Kingma & Welling 2014) with a Gaussian encoder and latents on a grid.

    Keys:
        widths: channels of the levels, the image's first, each further one half as high; the latents have the last's
            height.
        latent_channels: of the latents.
        beta: weight of the KL divergence (Higgins et al. 2017); 1 is the evidence lower bound.
    """

    logged: ClassVar[tuple[str, ...]] = ("reconstruction", "kl")

    training_only: ClassVar[tuple[str, ...]] = ("beta",)

    name: str = "vae"
    widths: list[int] = number([32, 64, 64], at_least=1)
    latent_channels: int = number(4, at_least=1)
    beta: float = number(1.0, above=0)

    def problems(self, experiment: "Experiment") -> Iterator[tuple[str, str]]:
        yield from _halvings(self.widths, experiment.data.image_size)


@MODELS.register("flow", "diffexp.models.flow:from_config")
@dataclass
class FlowConfig(PriorModelConfig):
    """A normalizing flow: affine couplings and 1×1 convolutions, half the channels leaving at each level (Glow).

    Keys:
        levels: each halves the height.
        steps_per_level: couplings of each.
        width: of the couplings' networks.
    """

    name: str = "flow"
    levels: int = number(2, at_least=1)
    steps_per_level: int = number(8, at_least=1)
    width: int = number(128, at_least=1)

    def problems(self, experiment: "Experiment") -> Iterator[tuple[str, str]]:
        size = experiment.data.image_size
        if size % 2**self.levels:
            yield (
                "levels",
                f"{self.levels} levels halve the image as often, but {size} is no multiple of {2**self.levels}",
            )


@MODELS.register("latent_diffusion", "diffexp.models.latent_diffusion:from_config")
@dataclass
class LatentDiffusionConfig(DiffusionConfig):
    """Diffusion in the latent space of a trained variational autoencoder (Rombach et al. 2022).

    Keys:
        autoencoder: the run, checkpoint or exported file of a model of name vae, trained on the same data. Its weights
            are kept in this model's checkpoints, so that it is needed at the start only.
        vae: the keys of that model.
    """

    bounded: ClassVar[bool] = False
    usual_table: ClassVar[str] = "evaluate/eta_latent"

    training_only: ClassVar[tuple[str, ...]] = (*DiffusionConfig.training_only, "autoencoder")

    name: str = "latent_diffusion"
    autoencoder: str = MISSING
    vae: VaeConfig = field(default_factory=VaeConfig)

    def usual_variants(self) -> dict[str, VariantConfig]:
        steps = min(self.FEW, self.timesteps)
        return {f"ddim-{steps}": DDIMConfig(steps=steps, clip=False), "ddpm": DDPMConfig(clip=False)}

    def network_shape(self, data: DataConfig) -> tuple[int, int, int]:
        side = data.image_size // 2 ** (len(self.vae.widths) - 1)
        return (self.vae.latent_channels, side, side)

    def problems(self, experiment: "Experiment") -> Iterator[tuple[str, str]]:
        yield from super().problems(experiment)
        if self.loss != "simple":
            yield "loss", f"must be simple: the bound is on levels of pixels, and latents have none, not {self.loss}"

        if self.gradient_variance is not None:
            yield "gradient_variance", "must be null: it is measured of images, not of latents"

    def trained_parts(self) -> dict[str, str]:
        return {"autoencoder": self.autoencoder}
