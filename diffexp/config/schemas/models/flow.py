"""Schema of the normalizing flow."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from diffexp.config.context import Context
from diffexp.config.fields import number
from diffexp.config.schemas.models.base import MODELS, PriorModelConfig


@MODELS.register("flow")
@dataclass
class FlowConfig(PriorModelConfig):
    """A normalizing flow of affine couplings and 1×1 convolutions (Glow, Kingma & Dhariwal 2018).

    Half of the channels leave the flow at each level.

    Keys:
        levels: number of levels; each halves the height and width.
        steps_per_level: couplings per level.
        width: channels of the couplings' networks.
    """

    held_out_calls: ClassVar[int | None] = 1

    name: str = "flow"
    levels: int = number(2, at_least=1, at_most=16)
    steps_per_level: int = number(8, at_least=1, at_most=1_000)
    width: int = number(128, at_least=1, at_most=65_536)

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        size = context.image_size
        if size % 2**self.levels:
            yield (
                "levels",
                f"expected data.image_size to be divisible by {2**self.levels} for {self.levels} levels, got {size}. "
                "Use fewer levels or another size.",
            )
