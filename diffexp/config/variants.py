"""The group of sampling variants: what ``sampler: {name: …}`` chooses from. Each family of models has its own."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from diffexp.config.registry import Choice, Registry

if TYPE_CHECKING:
    from diffexp.config.experiment import Experiment

# Which of the timesteps are visited by a sampler that takes steps.
Spacing = Literal["arctan", "leading", "trailing", "linspace", "quadratic", "quadratic-0.8", "karras", "logsnr"]
DEFAULT_SPACING: Spacing = "arctan"  # docs/solvers.md says why
# Those that do not start at T-1 if they take fewer than T steps.
STARTING_LATE: tuple[Spacing, ...] = ("leading", "quadratic-0.8")


@dataclass
class VariantConfig(Choice):
    """A way to draw samples. Which models know it, and what it costs, their `ModelConfig` says."""

    def label(self) -> str:
        """A short text that tells everything about it, for the names of metrics: prior-temperature0.7."""
        return "-".join([self.name, *self.own_parts()])

    def own_parts(self) -> list[str]:
        """What a label says of the keys that its schema adds to its family's."""
        parts: list[str] = []
        for key in SAMPLERS.own_fields(type(self)):
            value = getattr(self, key)
            if isinstance(value, bool):
                parts += [key] if value else []
            elif isinstance(value, str):
                parts.append(value)
            else:
                parts.append(f"{key}{format(value, '.12g') if isinstance(value, (int, float)) else value}")
        return parts

    def brief(self) -> tuple[str, ...]:
        """What names a file of its samples; the keys that `plain` leaves at their defaults are told beside it."""
        return (self.name,)

    def plain(self) -> "VariantConfig":
        """The one of the same `brief` with all other keys at their defaults."""
        return type(self)()

    def columns(self) -> dict[str, Any]:
        """What a table of scores tells of it in columns of their own."""
        return {}

    def problems(self, experiment: "Experiment") -> Iterator[tuple[str, str]]:
        wanted = experiment.model.variants
        if not isinstance(self, wanted):
            known = [name for name in SAMPLERS.names if issubclass(SAMPLERS.schema(name), wanted)]
            yield "name", f"{self.name} does not sample model.name = {experiment.model.name}; use {' or '.join(known)}"


SAMPLERS = Registry("sampler", VariantConfig)
