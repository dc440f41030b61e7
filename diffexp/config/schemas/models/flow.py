"""Schema of the normalizing flow."""

from collections.abc import Iterator
from dataclasses import dataclass

from diffexp.config.context import Context
from diffexp.config.fields import number
from diffexp.config.schemas.models.base import MODELS, PriorModelConfig


@MODELS.register("flow")
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

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        size = context.image_size
        if size % 2**self.levels:
            yield (
                "levels",
                f"{self.levels} levels halve the image as often, but {size} is no multiple of {2**self.levels}",
            )
