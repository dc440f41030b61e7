"""Schemas of the networks."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from diffexp.config.context import Context
from diffexp.config.fields import number
from diffexp.config.registry import Component, Registry


@dataclass
class NetworkConfig(Component):
    """A network (x_t, t) → output of x_t's shape. Its builder gets the image shape (C, H, W)."""


NETWORKS = Registry("network", NetworkConfig, "diffexp.networks.{name}:{schema}")


@NETWORKS.register("unet")
@dataclass
class UNetConfig(NetworkConfig):
    """The U-Net of Ho et al. 2020; the defaults but for `initialization` are its CIFAR-10 settings.

    Keys:
        base_channels: width of the first level.
        channel_multipliers: width of each level, in base_channels; each further level halves the image.
        num_res_blocks: residual blocks of each level on the way down.
        attention_resolutions: heights of the feature maps that get self-attention, in pixels.
        dropout: probability inside each residual block.
        norm_num_groups: groups of every GroupNorm; must divide every level's width.
        gradient_checkpointing: training keeps only the input of each block, and applies the block again for the
            gradient: a fraction of the memory, a third more time, the same numbers.
        initialization: of the weights. torch keeps torch's defaults; ddpm draws them as Ho et al.'s code does: larger,
            with biases at zero.
    """

    training_only: ClassVar[tuple[str, ...]] = ("dropout", "gradient_checkpointing", "initialization")

    name: str = "unet"
    base_channels: int = number(128, at_least=2)
    channel_multipliers: list[int] = number([1, 2, 2, 2], at_least=1)
    num_res_blocks: int = number(2, at_least=1)
    attention_resolutions: list[int] = field(default_factory=lambda: [16])
    dropout: float = number(0.1, at_least=0, below=1)
    norm_num_groups: int = number(32, at_least=1)
    gradient_checkpointing: bool = False
    initialization: Literal["torch", "ddpm"] = "torch"

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        if not self.channel_multipliers:
            yield "channel_multipliers", "must have at least one level"
            return
        size = context.network_size
        whose = "data.image_size" if size == context.image_size else "the latents' height"
        factor = 2 ** (len(self.channel_multipliers) - 1)
        if size % factor:
            yield (
                "channel_multipliers",
                f"{len(self.channel_multipliers)} levels halve the image {len(self.channel_multipliers) - 1} times, "
                f"but {whose} = {size} is not divisible by {factor}; use fewer levels or another size",
            )
            return
        resolutions = [size // 2**level for level in range(len(self.channel_multipliers))]
        for resolution in self.attention_resolutions:
            if resolution not in resolutions:
                yield (
                    "attention_resolutions",
                    f"{resolution} is not the height of any level (they are {resolutions})",
                )
        if self.base_channels % 2:
            yield "base_channels", f"must be even (sines and cosines of the time), not {self.base_channels}"
        for width in sorted({self.base_channels, *(self.base_channels * m for m in self.channel_multipliers)}):
            if width % self.norm_num_groups:
                yield "norm_num_groups", f"{self.norm_num_groups} does not divide a level's width of {width} channels"
                break


@dataclass
class AutoregressiveNetworkConfig(Component):
    """The network of an autoregressive model. Its builder gets the shape (H, W·C) of an image's rows of levels."""


AUTOREGRESSIVE_NETWORKS = Registry(
    "autoregressive network", AutoregressiveNetworkConfig, "diffexp.networks.{name}:{schema}"
)


@AUTOREGRESSIVE_NETWORKS.register("row_lstm")
@dataclass
class RowLSTMConfig(AutoregressiveNetworkConfig):
    """The row LSTM of PixelRNN (van den Oord et al. 2016): row after row, all pixels of a row at once in training.

    Keys:
        width: of every layer.
        layers: LSTMs on one another.
    """

    name: str = "row_lstm"
    width: int = number(64, at_least=1)
    layers: int = number(3, at_least=1)


@AUTOREGRESSIVE_NETWORKS.register("transformer")
@dataclass
class TransformerConfig(AutoregressiveNetworkConfig):
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

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        if self.width % self.heads:
            yield "heads", f"{self.heads} does not divide width = {self.width}"
