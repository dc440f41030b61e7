"""All scores of one set of images, with what is needed to read them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffexp.config.renamed import RENAMED_SCORES
from diffexp.config.schemas.metrics import METRICS, metrics
from diffexp.evaluation.metrics.base import Estimate
from diffexp.evaluation.protocol import Protocol

MEMORIZED = 0.05  # share of suspiciously near images above which a warning is due; .01 is as it should be


@dataclass(frozen=True)
class Scores(Mapping[str, Estimate]):
    """What was measured on a set of images: estimates by the name of their metric, of those that could be.

    Attributes:
        count: images.
        estimates: by name of the metric.
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
        """As plain data."""
        return {"count": self.count, **{name: estimate._asdict() for name, estimate in self.items()}}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Scores":
        """From what `as_dict` gave, also in diffexp 0.1."""
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
        """The numbers for loggers: NAME, NAME_error and, where it depends on the number of images, expected_NAME."""
        found: dict[str, float] = {}
        for name, estimate in self.items():
            found[name] = estimate.value
            if estimate.error is not None:
                found[f"{name}_error"] = estimate.error
            if name == "fd" and estimate.expected is not None:
                found[f"expected_{name}"] = estimate.expected
        return found

    def warnings(self) -> list[str]:
        """What should be said beside the numbers."""
        memorized = self.get("memorized_fraction")
        if memorized is not None and memorized.value > MEMORIZED:
            return [
                f"{memorized.value:.0%} of the images are nearer to a training image than all but 1 % of those are to "
                "each other: are they copies?"
            ]
        return []

    def one_line(self, name: str, rules: Protocol) -> str:
        """The scores of a sampler, or another set of this name, with all that is needed to read them."""
        fd = self["fd"]
        text = (
            f"{name} {rules.metric('fd')} {fd.value:.4g} ± {fd.error:.2g} "
            f"(perfect: {fd.expected:.3g}; {self.count} images; protocol {rules.id})"
        )
        if "precision" in self:
            text += f", precision {self['precision'].value:.3f}, recall {self['recall'].value:.3f}"
        return "; ".join([text, *self.warnings()])

    def text(self, rules: Protocol) -> str:
        """The scores, one metric a line, each with what is needed to read it."""
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
    """The names of all registered metrics."""
    return [schema.name for schema in METRICS.schemas]
