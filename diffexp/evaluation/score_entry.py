"""One entry of a score table: a sampler with a number of steps, and its scores."""

from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from diffexp.config.merge import as_dict
from diffexp.config.renamed import with_current_names
from diffexp.config.schemas.experiment import Experiment
from diffexp.config.schemas.requests import EvaluateRequest
from diffexp.config.schemas.samplers import SAMPLERS, SamplerConfig
from diffexp.errors import UserError
from diffexp.evaluation.scores import Scores, known_metrics
from diffexp.statistics.scores import ScoredBlock


@dataclass
class ScoreEntry:
    """One sampler with one number of steps, and its scores so far.

    Attributes:
        sampler: the sampler, including its steps.
        row: its label without the steps.
        network_calls: network calls per image.
        repeats: scores of disjoint sets of images, in order.
        seconds: time to draw and score the images of each repeat.
    """

    sampler: SamplerConfig
    row: str
    network_calls: int
    repeats: list[Scores] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def values(self, metric: str) -> list[float]:
        """Return a metric of `Scores.scalars` in each repeat that has it."""
        return [scalars[metric] for scalars in (each.scalars() for each in self.repeats) if metric in scalars]

    def measured(self) -> list[str]:
        """Return the names of the metrics with a value in any repeat."""
        return [metric for metric in known_metrics() if self.values(metric)]

    def mean(self, metric: str) -> float | None:
        """Return the mean over the repeats; None without values."""
        values = self.values(metric)
        return fmean(values) if values else None

    def spread(self, metric: str) -> float | None:
        """Return the standard deviation over the repeats; for a single one its standard error, or None."""
        values = self.values(metric)
        return stdev(values) if len(values) > 1 else next(iter(self.values(f"{metric}_error")), None)

    def scored(self, metric: str, seed: int) -> list[ScoredBlock]:
        """Return the repeats that have a metric, for comparisons with other entries of images from the same seed."""
        found = []
        for repeat, scores in enumerate(self.repeats):
            estimate = scores.get(metric)
            if estimate is not None:
                images = (seed, repeat * scores.count, scores.count)
                found.append(ScoredBlock(images, estimate.value, estimate.error, estimate.influence))
        return found

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ScoreEntry":
        """Build an entry from the output of `as_dict`.

        Raises:
            KeyError: if a key is missing.
            TypeError: if a value has another type.
        """
        keys = with_current_names(values["sampler"], ("sampler",))
        sampler = SAMPLERS.schema(keys["name"])(**keys)
        assert isinstance(sampler, SamplerConfig)
        repeats = [Scores.from_dict(each) for each in values["blocks"]]
        # recomputed, because a label omits defaults, and a default may have changed since
        return cls(sampler, sampler.label(), values["network_calls"], repeats, values["seconds"])

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as plain data, with the keys of diffexp 0.1's files."""
        measured = self.measured()
        return {
            "row": self.row,
            "network_calls": self.network_calls,
            "sampler": as_dict(self.sampler),
            "seconds": self.seconds,
            "blocks": [each.as_dict() for each in self.repeats],
            "mean": {metric: self.mean(metric) for metric in measured},
            "spread": {metric: self.spread(metric) for metric in measured if self.spread(metric) is not None},
        }


def entries(request: EvaluateRequest, experiment: Experiment) -> list[ScoreEntry]:
    """Return the entries of a table, row by row.

    Args:
        request: the evaluation.
        experiment: the experiment that was trained; steps that its model does not support are skipped.

    Raises:
        UserError: if no entry remains.
    """
    model = experiment.model
    found: dict[tuple[str, int], ScoreEntry] = {}
    for sampler in request.samplers.values():
        for expanded in model.expand(sampler, request.steps, request.spacings) if sampler is not None else ():
            row, calls = expanded.label(), model.network_calls(expanded, experiment.data)
            found.setdefault((row, calls), ScoreEntry(expanded, row, calls))
    if not found:
        raise UserError(
            "samplers, steps: expected a sampler and a number of steps that this model supports, got none. "
            "Change them, or the file of --table."
        )
    return list(found.values())
