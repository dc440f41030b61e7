"""The scores of a set of images, with their errors and expected values."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from diffexp.config.renamed import RENAMED_SCORES
from diffexp.config.schemas.metrics import METRICS, metrics
from diffexp.evaluation.metrics.base import Estimate
from diffexp.evaluation.protocol import Protocol
from diffexp.statistics.influence import Influence

MEMORIZED = 0.05  # memorized fraction above which diffexp warns; .01 is expected


@dataclass(frozen=True)
class Scores(Mapping[str, Estimate]):
    """The estimates of a set of images by metric name, for the metrics that were available.

    Attributes:
        count: number of images.
        estimates: the estimates by metric name.
    """

    count: int
    estimates: dict[str, Estimate]

    def __getitem__(self, metric: str) -> Estimate:
        return self.estimates[metric]

    def __iter__(self) -> Any:
        return iter(self.estimates)

    def __len__(self) -> int:
        return len(self.estimates)

    def as_dict(self) -> dict[str, Any]:
        """Return the scores as plain data, without the influences of images, which have files of their own."""
        keys = ("value", "error", "expected")
        return {"count": self.count, **{name: {key: getattr(each, key) for key in keys} for name, each in self.items()}}

    def influences(self) -> dict[str, Influence]:
        """Return the influences of the images by metric, where they are known."""
        return {name: each.influence for name, each in self.items() if each.influence is not None}

    def with_influences(self, influences: Mapping[str, Influence]) -> Self:
        """Return the scores with the influences of the images."""
        found = {name: each._replace(influence=influences.get(name)) for name, each in self.items()}
        return replace(self, estimates=found)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Scores":
        """Build scores from the output of `as_dict`, including that of diffexp 0.1."""
        estimates = {}
        for name, value in values.items():
            if value is None or name in ("count", "floor"):
                continue
            estimate = Estimate(**value) if isinstance(value, dict) else Estimate(value)
            if name == "fd" and "floor" in values:
                estimate = estimate._replace(expected=values["floor"])
            estimates[RENAMED_SCORES.get(name, name)] = estimate
        return cls(values["count"], estimates)

    def scalars(self) -> dict[str, float]:
        """Return the numbers for loggers: NAME, NAME_error and, for the Fréchet distance, expected_fd."""
        found: dict[str, float] = {}
        for name, estimate in self.items():
            found[name] = estimate.value
            if estimate.error is not None:
                found[f"{name}_error"] = estimate.error
            if name == "fd" and estimate.expected is not None:
                found[f"expected_{name}"] = estimate.expected
        return found

    def warnings(self) -> list[str]:
        """Return warnings about the numbers."""
        memorized = self.get("memorized_fraction")
        if memorized is not None and memorized.value > MEMORIZED:
            return [
                f"{memorized.value:.0%} of the images are closer to a training image than 99 % of training images are "
                "to their nearest neighbour. Check whether they are copies."
            ]
        return []

    def one_line(self, name: str, rules: Protocol) -> str:
        """Format the main scores of a sampler, or another named set, in one line with their context."""
        fd = self["fd"]
        text = (
            f"{name} {rules.metric('fd')} {fd.value:.4g} ± {fd.error:.2g} "
            f"(perfect: {fd.expected:.3g}; {self.count} images; protocol {rules.id})"
        )
        if "precision" in self:
            text += f", precision {self['precision'].value:.3f}, recall {self['recall'].value:.3f}"
        return "; ".join([text, *self.warnings()])

    def text(self, rules: Protocol) -> str:
        """Format the scores, one metric per line, with errors and expected values, and warnings at the end."""
        lines = []
        for schema in metrics():
            if schema.name not in self:
                continue
            estimate = self[schema.name]
            line = f"{rules.metric(schema.name)}: {estimate.value:{schema.format}}"
            line += "" if estimate.error is None else f" ± {estimate.error:.2g}"
            line += "" if estimate.expected is None else f" (a perfect generator: {estimate.expected:.3g})"
            lines.append(line)
        return "\n".join([*lines, *(f"warning: {each}" for each in self.warnings())])


def known_metrics() -> list[str]:
    """Return the names of all registered metrics."""
    return [schema.name for schema in METRICS.schemas]
