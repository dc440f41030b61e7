"""The group of generative models: what ``model: {name: …}`` chooses from."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from diffexp.config.registry import Component, Registry
from diffexp.config.schemas.data import DataConfig
from diffexp.config.schemas.samplers import PriorConfig, SamplerConfig, Spacing
from diffexp.config.schemas.schedules import ScheduleConfig


@dataclass
class ModelConfig(Component):
    """A generative model. Its builder gets the image shape (C, H, W).

    Beside its keys a schema says what configs, sweeps and tables need to know of the model before it is built.
    """

    # What the configs of its samplers derive from.
    sampler_base: ClassVar[type[SamplerConfig]] = SamplerConfig
    # The table that `diffexp evaluate` makes of it where none is named.
    default_table: ClassVar[str] = "evaluate/usual"
    # Whether what its samplers work on lies in [-1, 1].
    bounded: ClassVar[bool] = True
    # What it logs as train/NAME beside loss and lr, as regular expressions.
    logged: ClassVar[tuple[str, ...]] = ()

    def default_samplers(self) -> dict[str, SamplerConfig]:
        """Named samplers where a config names none: the first for samples and scores, all for grids."""
        return {}

    def resolve(self, sampler: SamplerConfig) -> SamplerConfig:
        """The sampler, with what it leaves to the model filled in."""
        return sampler

    def network_calls(self, sampler: SamplerConfig, data: DataConfig) -> int:
        """How many times one batch of samples calls the network."""
        return 1

    def expand(
        self, sampler: SamplerConfig, steps: Sequence[int | None], spacings: Sequence[Spacing]
    ) -> Iterator[SamplerConfig]:
        """What a table makes of a sampler; `steps` and `spacings` are for models that take steps."""
        yield sampler

    def skipped_steps(self, steps: Iterable[int | None]) -> str | None:
        """A line that tells which steps of a table are left out because the model cannot take them, or None."""
        asked = [str(number) for number in steps if number is not None]
        return f"{', '.join(asked)} left out: model.name = {self.name} takes no steps" if asked else None

    def network_shape(self, data: DataConfig) -> tuple[int, int, int]:
        """(C, H, W) of what a network of the group "network" gets."""
        return (data.channels, data.image_size, data.image_size)

    def noise(self) -> tuple[ScheduleConfig, int] | None:
        """(schedule, T) of the noise that is put on images, of models that learn to take it off; reports plot it."""
        return None

    def callbacks(self) -> dict[str, dict[str, Any]]:
        """Further callbacks of its training: each as "module:class", with its keyword arguments."""
        return {}

    def trained_parts(self) -> dict[str, str]:
        """By the name of a part of the model that is trained before it, the file or run that it is taken from."""
        return {}


MODELS = Registry("model", ModelConfig, "diffexp.models.{name}:{schema}Module.from_config")


def default_samplers_of(name: str) -> dict[str, SamplerConfig]:
    """The usual samplers of the model of a name, with all its keys at their defaults; {} of an unknown one."""
    if name not in MODELS.names:
        return {}
    model = MODELS.schema(name)()
    assert isinstance(model, ModelConfig)
    return model.default_samplers()


def halving_problems(widths: list[int], size: int) -> Iterator[tuple[str, str]]:
    """What is wrong with one width a level, each further level half as high."""
    factor = 2 ** (len(widths) - 1) if widths else 1
    if not widths:
        yield "widths", "must have at least one level"
    elif size % factor:
        yield "widths", f"{len(widths)} levels halve the image all but once; {size} is no multiple of {factor}"


@dataclass
class PriorModelConfig(ModelConfig):
    """A model that is sampled from its prior by one call."""

    sampler_base: ClassVar[type[SamplerConfig]] = PriorConfig

    def default_samplers(self) -> dict[str, SamplerConfig]:
        return {"prior": PriorConfig()}
