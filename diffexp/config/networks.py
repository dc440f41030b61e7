"""Schemas of the networks."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from diffexp.config.fields import number
from diffexp.config.registry import Choice, Registry

if TYPE_CHECKING:
    from diffexp.config.experiment import Experiment


@dataclass
class NetworkConfig(Choice):
    """A network (x_t, t) → output of x_t's shape. Its builder gets the image shape (C, H, W)."""


NETWORKS = Registry("network", NetworkConfig)


@NETWORKS.register("unet", "diffexp.networks.unet:UNet")
@dataclass
class UNetConfig(NetworkConfig):
    """The U-Net of Ho et al. 2020; the defaults but for `initialization` are its CIFAR-10 settings.

    Keys:
        base_channels: width of the first level.
        channel_multipliers: width of each level, in base_channels; each further level halves the image.
        blocks_per_level: residual blocks of each level on the way down.
        attention_resolutions: heights of the feature maps that get self-attention, in pixels.
        dropout: probability inside each residual block.
        groups: groups of every GroupNorm; must divide every level's width.
        recompute: training keeps only the input of each block and computes it again for the gradient: a fraction of
            the memory, a third more time, the same numbers.
        initialization: of the weights. torch keeps torch's defaults; ddpm draws them as Ho et al.'s code does: larger,
            with biases at zero.
    """

    training_only: ClassVar[tuple[str, ...]] = ("dropout", "recompute", "initialization")

    name: str = "unet"
    base_channels: int = number(128, at_least=2)
    channel_multipliers: list[int] = number([1, 2, 2, 2], at_least=1)
    blocks_per_level: int = number(2, at_least=1)
    attention_resolutions: list[int] = field(default_factory=lambda: [16])
    dropout: float = number(0.1, at_least=0, below=1)
    groups: int = number(32, at_least=1)
    recompute: bool = False
    initialization: Literal["torch", "ddpm"] = "torch"

    def problems(self, experiment: "Experiment") -> Iterator[tuple[str, str]]:
        if not self.channel_multipliers:
            yield "channel_multipliers", "must have at least one level"
            return
        size = experiment.model.network_shape(experiment.data)[1]
        whose = "data.image_size" if size == experiment.data.image_size else "the latents' height"
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
            if width % self.groups:
                yield "groups", f"{self.groups} does not divide a level's width of {width} channels"
                break
