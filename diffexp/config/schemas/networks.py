"""Schemas of the networks."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from diffexp.config.context import Context
from diffexp.config.fields import number
from diffexp.config.registry import Component, Registry


@dataclass
class NetworkConfig(Component):
    """A network (x_t, t) → output of the shape of x_t. Its builder gets the image shape (C, H, W)."""


NETWORKS = Registry("network", NetworkConfig, "diffexp.networks.{name}:{schema}")


@NETWORKS.register("unet")
@dataclass
class UNetConfig(NetworkConfig):
    """The U-Net of Ho et al. 2020. The defaults, except `initialization`, are its CIFAR-10 settings.

    Keys:
        base_channels: channels of the first level.
        channel_multipliers: channels of each level as multiples of base_channels. Each further level halves the height
            and width.
        num_res_blocks: residual blocks per level of the encoder.
        attention_resolutions: heights in pixels of the feature maps that get self-attention.
        dropout: dropout probability in each residual block.
        norm_num_groups: groups of every GroupNorm; must divide the channels of every level.
        gradient_checkpointing: in training, store only each block's input and recompute the block for the gradient.
            Takes a fraction of the memory and a third more time; the numbers are the same.
        initialization: initial weights. torch uses torch's defaults; ddpm those of Ho et al.'s code, which are larger,
            with zero biases.
    """

    training_only: ClassVar[tuple[str, ...]] = ("dropout", "gradient_checkpointing", "initialization")

    name: str = "unet"
    base_channels: int = number(128, at_least=2, at_most=65_536)
    channel_multipliers: list[int] = number([1, 2, 2, 2], at_least=1, at_most=1_024)
    num_res_blocks: int = number(2, at_least=1, at_most=100)
    attention_resolutions: list[int] = field(default_factory=lambda: [16])
    dropout: float = number(0.1, at_least=0, below=1)
    norm_num_groups: int = number(32, at_least=1)
    gradient_checkpointing: bool = False
    initialization: Literal["torch", "ddpm"] = "torch"

    def fitting_defaults(self, context: Context) -> Iterator[tuple[str, Any]]:
        """Yield the level's height nearest to 16 for attention, and the largest fitting number of groups up to 32."""
        heights = self._heights(context)
        if heights and not set(self.attention_resolutions) <= set(heights):
            yield "attention_resolutions", [_nearest(heights, 16)]
        yield "norm_num_groups", math.gcd(self.norm_num_groups, *self._widths())

    def _heights(self, context: Context) -> list[int]:
        """Return the heights of the levels' feature maps in pixels; [] if a level would not be halved evenly."""
        levels = len(self.channel_multipliers)
        even = levels and context.network_size % 2 ** (levels - 1) == 0
        return [context.network_size // 2**level for level in range(levels)] if even else []

    def _widths(self) -> list[int]:
        """Return the numbers of channels that a GroupNorm divides, in ascending order."""
        return sorted({self.base_channels, *(self.base_channels * each for each in self.channel_multipliers)})

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        if not self.channel_multipliers:
            yield "channel_multipliers", "expected at least one level, got none."
            return
        size = context.network_size
        whose = "data.image_size" if size == context.image_size else "the latents' height"
        factor = 2 ** (len(self.channel_multipliers) - 1)
        if size % factor:
            yield (
                "channel_multipliers",
                f"expected {whose} to be divisible by {factor} for {len(self.channel_multipliers)} levels, got {size}. "
                "Use fewer levels or another size.",
            )
            return
        heights = self._heights(context)
        for resolution in self.attention_resolutions:
            if resolution not in heights:
                yield (
                    "attention_resolutions",
                    f"expected heights of levels ({heights}), got {resolution}. "
                    f"Use {_nearest(heights, resolution)}, for example.",
                )
        if self.base_channels % 2:
            yield "base_channels", f"expected an even number (sines and cosines of the time), got {self.base_channels}."
        for width in self._widths():
            if width % self.norm_num_groups:
                yield (
                    "norm_num_groups",
                    f"expected a divisor of a level's {width} channels, got {self.norm_num_groups}. "
                    f"Use {math.gcd(self.norm_num_groups, *self._widths())}, for example.",
                )
                break


def _nearest(heights: list[int], wanted: int) -> int:
    return min(heights, key=lambda height: abs(height - wanted))


@dataclass
class AutoregressiveNetworkConfig(Component):
    """The network of an autoregressive model. Its builder gets the shape (H, W·C) of an image as rows of levels."""


AUTOREGRESSIVE_NETWORKS = Registry(
    "autoregressive network", AutoregressiveNetworkConfig, "diffexp.networks.{name}:{schema}"
)


@AUTOREGRESSIVE_NETWORKS.register("row_lstm")
@dataclass
class RowLSTMConfig(AutoregressiveNetworkConfig):
    """The row LSTM of PixelRNN (van den Oord et al. 2016). Training computes all pixels of a row in parallel.

    Keys:
        width: channels of every layer.
        layers: number of stacked LSTMs.
    """

    name: str = "row_lstm"
    width: int = number(64, at_least=1, at_most=65_536)
    layers: int = number(3, at_least=1, at_most=1_000)


@AUTOREGRESSIVE_NETWORKS.register("transformer")
@dataclass
class TransformerConfig(AutoregressiveNetworkConfig):
    """A Transformer decoder over the pixels (Vaswani et al. 2017; Chen et al. 2020, "Image GPT").

    Keys:
        width: dimension of every token.
        layers: number of blocks, each self-attention and a multilayer perceptron.
        heads: number of attention heads; must divide width.
        dropout: dropout probability after attention and perceptron.
    """

    training_only: ClassVar[tuple[str, ...]] = ("dropout",)

    name: str = "transformer"
    width: int = number(128, at_least=1, at_most=65_536)
    layers: int = number(4, at_least=1, at_most=1_000)
    heads: int = number(4, at_least=1)
    dropout: float = number(0.0, at_least=0, below=1)

    def fitting_defaults(self, context: Context) -> Iterator[tuple[str, Any]]:
        """Yield the largest number of heads up to four that divides width."""
        yield "heads", math.gcd(self.heads, self.width)

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        if self.width % self.heads:
            yield "heads", f"expected a divisor of width = {self.width}, got {self.heads}."
