"""Base schemas of the generative models, chosen by ``model: {name: …}``."""

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

    In addition to its keys, a schema has the properties that configs, sweeps and tables need before the model is built.
    """

    # Base class of its samplers' configs.
    sampler_base: ClassVar[type[SamplerConfig]] = SamplerConfig
    # The default table of `diffexp evaluate`.
    default_table: ClassVar[str] = "evaluate/usual"
    # Whether its samplers work on values in [-1, 1].
    bounded: ClassVar[bool] = True
    # Names that it logs as train/NAME in addition to loss and lr, as regular expressions.
    logged: ClassVar[tuple[str, ...]] = ()
    # Network calls per image of `GenerativeModel.held_out_loss`; None for a model without a likelihood.
    held_out_calls: ClassVar[int | None] = None
    # The levels of log SNR at which that measures an error.
    held_out_levels: ClassVar[tuple[int, ...]] = ()

    def default_samplers(self) -> dict[str, SamplerConfig]:
        """Return the samplers of a config that names none, by name: the first for samples and scores, all for grids."""
        return {}

    def resolve(self, sampler: SamplerConfig) -> SamplerConfig:
        """Return the sampler with the keys that it leaves to the model filled in."""
        return sampler

    def label(self, sampler: SamplerConfig) -> str:
        """Return the sampler's label in the names of a training's metrics, as the model's `label` does."""
        return sampler.label()

    def network_calls(self, sampler: SamplerConfig, data: DataConfig) -> int:
        """Return the number of network calls per batch of samples."""
        return 1

    def expand(
        self, sampler: SamplerConfig, steps: Sequence[int | None], spacings: Sequence[Spacing]
    ) -> Iterator[SamplerConfig]:
        """Yield a table's samplers for one sampler. `steps` and `spacings` apply to models with steps."""
        yield sampler

    def skipped_steps(self, steps: Iterable[int | None]) -> str | None:
        """Return a line that names the steps of a table that the model does not support, or None."""
        asked = [str(number) for number in steps if number is not None]
        return f"skipped {', '.join(asked)}: model.name = {self.name} has no steps" if asked else None

    def network_shape(self, data: DataConfig) -> tuple[int, int, int]:
        """Return the shape (C, H, W) of the input of a network of the group "network"."""
        return (data.channels, data.image_size, data.image_size)

    def noise(self) -> tuple[ScheduleConfig, int] | None:
        """Return the (schedule, T) of a model that learns to remove noise, for plots in reports; None of another."""
        return None

    def callbacks(self) -> dict[str, dict[str, Any]]:
        """Return additional callbacks of its training, as "module:class" with keyword arguments."""
        return {}

    def trained_parts(self) -> dict[str, str]:
        """Return the file or run of each part of the model that is trained before it, by the part's name."""
        return {}


MODELS = Registry("model", ModelConfig, "diffexp.models.{name}:{schema}Module.from_config")


def default_samplers_of(name: Any, timesteps: Any = None) -> dict[str, SamplerConfig]:
    """Return the default samplers of a model with all other keys at their defaults; {} for an unknown name.

    Args:
        name: the model's name.
        timesteps: T; anything else than an integer above 0 is ignored.
    """
    if name not in MODELS.names:
        return {}
    model = MODELS.schema(name)()
    assert isinstance(model, ModelConfig)
    if isinstance(timesteps, int) and timesteps > 0 and hasattr(model, "timesteps"):
        model.timesteps = timesteps
    return model.default_samplers()


def halving_problems(widths: list[int], size: int) -> Iterator[tuple[str, str]]:
    """Yield the problems of one width per level, where each further level halves the height."""
    factor = 2 ** (len(widths) - 1) if widths else 1
    if not widths:
        yield "widths", "expected at least one level, got none."
    elif size % factor:
        yield (
            "widths",
            f"expected data.image_size to be divisible by {factor} for {len(widths)} levels, got {size}. "
            "Use fewer levels or another size.",
        )


@dataclass
class PriorModelConfig(ModelConfig):
    """A model that maps a draw from its prior to a sample with one network call."""

    sampler_base: ClassVar[type[SamplerConfig]] = PriorConfig

    def default_samplers(self) -> dict[str, SamplerConfig]:
        return {"prior": PriorConfig()}
