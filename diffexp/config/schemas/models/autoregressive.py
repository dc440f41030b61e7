"""Schema of the autoregressive model."""

from dataclasses import dataclass, field
from typing import ClassVar

from diffexp.config.schemas.data import DataConfig
from diffexp.config.schemas.models.base import MODELS, ModelConfig
from diffexp.config.schemas.networks import AutoregressiveNetworkConfig, TransformerConfig
from diffexp.config.schemas.samplers import AncestralConfig, SamplerConfig


@MODELS.register("autoregressive")
@dataclass
class AutoregressiveConfig(ModelConfig):
    """An autoregressive model, p(x) = ∏ p(x_i | x_1 … x_{i-1}), where each x_i is one of 256 levels.

    The pixels are ordered from the top left, row by row, and within a pixel channel by channel.

    Keys:
        network: network that predicts the distribution of each level.
    """

    sampler_base: ClassVar[type[SamplerConfig]] = AncestralConfig
    held_out_calls: ClassVar[int | None] = 1

    name: str = "autoregressive"
    network: AutoregressiveNetworkConfig = field(default_factory=TransformerConfig)

    def default_samplers(self) -> dict[str, SamplerConfig]:
        return {"ancestral": AncestralConfig()}

    def network_calls(self, sampler: SamplerConfig, data: DataConfig) -> int:
        return data.channels * data.image_size**2
