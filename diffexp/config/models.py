"""The group of generative models: what ``model: {name: …}`` chooses from."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from diffexp.config.data import DataConfig
from diffexp.config.registry import Choice, Registry
from diffexp.config.variants import Spacing, VariantConfig

if TYPE_CHECKING:
    from diffexp.config.diffusion import ScheduleConfig


@dataclass
class ModelConfig(Choice):
    """A generative model. Its builder gets the image shape (C, H, W), the `Optim` config and the seed.

    Beside its keys a schema says what configs, sweeps and tables need to know of the model before it is built.
    """

    # What the schemas of its sampling variants derive from.
    variants: ClassVar[type[VariantConfig]] = VariantConfig
    # The table that `diffexp evaluate` makes of it where none is named.
    usual_table: ClassVar[str] = "evaluate/usual"
    # Whether what its samplers work on lies in [-1, 1].
    bounded: ClassVar[bool] = True
    # What it logs as train/NAME beside loss and lr, as regular expressions.
    logged: ClassVar[tuple[str, ...]] = ()

    def usual_variants(self) -> dict[str, VariantConfig]:
        """Named variants where a config names none: the first for samples and scores, all for grids."""
        return {}

    def resolved(self, variant: VariantConfig) -> VariantConfig:
        """The variant, with what it leaves to the model filled in."""
        return variant

    def network_calls(self, variant: VariantConfig, data: DataConfig) -> int:
        """How many times one batch of samples calls the network."""
        return 1

    def cells(
        self, variant: VariantConfig, steps: Sequence[int | None], spacings: Sequence[Spacing]
    ) -> Iterator[VariantConfig]:
        """What a table makes of a variant; `steps` and `spacings` are for models that take steps."""
        yield variant

    def left_out(self, steps: Iterable[int | None]) -> str | None:
        """A line that tells which steps of a table are left out because the model cannot take them, or None."""
        asked = [str(number) for number in steps if number is not None]
        return f"{', '.join(asked)} left out: model.name = {self.name} takes no steps" if asked else None

    def network_shape(self, data: DataConfig) -> tuple[int, int, int]:
        """(C, H, W) of what a network of the group "network" gets."""
        return (data.channels, data.image_size, data.image_size)

    def noise(self) -> "tuple[ScheduleConfig, int] | None":
        """(schedule, T) of the noise that is put on images, of models that learn to take it off; reports plot it."""
        return None

    def callbacks(self) -> dict[str, dict[str, Any]]:
        """Further callbacks of its training: each as "module:class", with its keyword arguments."""
        return {}

    def trained_parts(self) -> dict[str, str]:
        """By the name of a part of the model that is trained before it, the file or run that it is taken from."""
        return {}


MODELS = Registry("model", ModelConfig)


def default_variants(name: str) -> dict[str, VariantConfig]:
    """The usual variants of the model of a name, with all its keys at their defaults; {} of an unknown one."""
    if name not in MODELS.names:
        return {}
    model = MODELS.schema(name)()
    assert isinstance(model, ModelConfig)
    return model.usual_variants()
