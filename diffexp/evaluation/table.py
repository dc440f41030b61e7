"""The score table of one checkpoint, as in the DDIM paper: samplers × steps × spacings from the same initial noise."""

import csv
import io
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from diffexp.config.merge import as_dict
from diffexp.config.renamed import with_current_names
from diffexp.config.schemas.experiment import Experiment
from diffexp.config.schemas.metrics import MetricConfig, metrics
from diffexp.config.schemas.requests import EvaluateRequest
from diffexp.config.schemas.samplers import SAMPLERS, SamplerConfig
from diffexp.errors import UserError, writing
from diffexp.evaluation.ranking import ScoreEstimate, best_and_ties
from diffexp.evaluation.scores import Scores, known_metrics
from diffexp.formatting import markdown_table, pm
from diffexp.system.files import atomic_write_text, refuse_others


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


@dataclass
class ScoreTable:
    """Entries and their common settings.

    Attributes:
        about: plain data: checkpoint, weights, count, protocol, …; only a table with the same data is resumed.
        metric: the name of the distance, including extractor and count.
        protocol: the protocol's id.
        entries: the entries, row by row.
    """

    about: dict[str, Any]
    metric: str
    protocol: str
    entries: list[ScoreEntry]

    def resume(self, folder: Path, metrics: Collection[str] = ()) -> None:
        """Load the scores of an earlier evaluation in the folder, including entries not requested now.

        Args:
            folder: the folder of the tables.
            metrics: the names of the metrics measured now.

        Raises:
            UserError: if the folder contains another evaluation, or scores that lack one of the metrics.
        """
        path = folder / "table.json"
        if not path.is_file():
            refuse_others(folder, "table.csv", "table.md")
            return
        try:
            before = json.loads(path.read_text())
            earlier = {(each.row, each.network_calls): each for each in map(ScoreEntry.from_dict, before["cells"])}
            about = before["about"]
            different = [key for key, value in self.about.items() if about.get(key) != json.loads(json.dumps(value))]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged. Remove the tables in {folder} to start from scratch.") from error
        if different:
            raise UserError(
                f"out: expected a folder for this evaluation, got {folder} with another {', '.join(different)}. "
                "Set out=… to another folder."
            )
        for repeat in (repeat for entry in earlier.values() for repeat in entry.repeats):
            if lacking := [metric for metric in metrics if metric not in repeat]:
                raise UserError(
                    f"out: expected scores by all metrics, got {folder} without {', '.join(lacking)}. "
                    "Set out=… to another folder."
                )
        for entry in self.entries:
            same = earlier.pop((entry.row, entry.network_calls), None)
            if same is not None and same.sampler == entry.sampler:
                entry.repeats, entry.seconds = same.repeats, same.seconds
        self.entries += earlier.values()

    def write(self, folder: Path) -> None:
        """Write table.json, table.csv and table.md, each atomically.

        Raises:
            EnvironmentFailure: if the disk is full or failing.
            UserError: if they cannot be written for another reason.
        """
        content = {
            "about": self.about,
            "metric": self.metric,
            "protocol": self.protocol,
            "cells": [entry.as_dict() for entry in self.entries],  # as in the files of diffexp 0.1
        }
        with writing(f"out: {folder}"):
            atomic_write_text(folder / "table.json", json.dumps(content, indent=1) + "\n")
            atomic_write_text(folder / "table.csv", self.csv())
            atomic_write_text(folder / "table.md", self.markdown())

    def records(self) -> list[dict[str, Any]]:
        """Return one flat record per entry with scores, for CSV and W&B."""
        done = [entry for entry in self.entries if entry.repeats]
        spread = [name for name in known_metrics() if any(entry.spread(name) is not None for entry in done)]
        return [
            {
                "sampler": entry.row,
                "network_calls": entry.network_calls,
                **entry.sampler.columns(),
                **{metric: entry.mean(metric) for metric in known_metrics()},
                **{f"{metric}_spread": entry.spread(metric) for metric in spread},
                "expected_fd": entry.mean("expected_fd"),
                "seconds": fmean(entry.seconds),
                "repeats": len(entry.repeats),
                **{key: self.about[key] for key in ("weights", "count", "reference", "extractor", "quantisation")},
                "protocol": self.protocol,
            }
            for entry in done
        ]

    def csv(self) -> str:
        """Format the records as CSV."""
        records = self.records()
        text = io.StringIO()
        if records:
            writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(records)
        return text.getvalue()

    def markdown(self) -> str:
        """Format the tables as Markdown: first the Fréchet distance with its spread, then one per metric title."""
        about, done = self.about, [entry for entry in self.entries if entry.repeats]
        parts = [f"# {about['name']}, step {about['step']}, {about['weights']} weights\n"]
        if not done:
            return parts[0]
        expected = fmean(entry.mean("expected_fd") or 0.0 for entry in done)
        numbers = sorted({len(entry.repeats) for entry in done})
        repeats = (
            "with standard errors, "
            if numbers == [1]
            else f"mean ± standard deviation over {numbers[-1]} disjoint sets of "
        )
        single = " (¹ a single set, with its standard error)" if numbers[0] < numbers[-1] else ""
        parts.append(
            f"`{self.metric}`, {repeats}{about['count']} images{single}, against {about['reference']}; protocol "
            f"{self.protocol}. A perfect generator would have about {expected:.3g}. In each column, bold marks the "
            "lowest score, and = marks scores statistically indistinguishable from it.\n"
        )
        parts.append(self._grid(self._distance))
        for title, together in self._titles(done).items():
            parts += [f"{title}:\n", self._grid(partial(_content, together))]
        parts.append(f"Seconds for {about['count']} images ({about['device']}):\n")
        parts.append(self._grid(lambda entry, _: f"{fmean(entry.seconds):.1f}"))
        for warning in sorted({text for entry in done for each in entry.repeats for text in each.warnings()}):
            parts.append(f"Warning: {warning}\n")
        return "\n".join(parts)

    def _titles(self, done: Sequence[ScoreEntry]) -> dict[str, list[type[MetricConfig]]]:
        """Group the measured metrics except the Fréchet distance by title; metrics of one title share a table."""
        found: dict[str, list[type[MetricConfig]]] = {}
        for schema in metrics():
            if schema.name != "fd" and any(entry.values(schema.name) for entry in done):
                found.setdefault(schema.title or schema.name, []).append(schema)
        return found

    def _distance(self, entry: ScoreEntry, column: Sequence[ScoreEntry]) -> str:
        one_of_many = len(entry.repeats) == 1 < max(len(each.repeats) for each in self.entries)
        text = pm(entry.mean("fd") or 0.0, entry.spread("fd")) + (" ¹" if one_of_many else "")
        estimates = [ScoreEstimate(each.mean("fd") or 0.0, each.spread("fd") or 0.0, self.protocol) for each in column]
        best, ties = best_and_ties(estimates)
        mine = next(index for index, each in enumerate(column) if each is entry)
        return f"**{text}**" if mine == best else f"{text} =" if mine in ties else text

    def _grid(self, content: Any) -> str:
        """Format a table with samplers as rows and network calls as columns."""
        rows = list(dict.fromkeys(entry.row for entry in self.entries))
        columns = sorted({entry.network_calls for entry in self.entries})
        by_place = {(entry.row, entry.network_calls): entry for entry in self.entries if entry.repeats}
        lines = []
        for row in rows:
            texts = []
            for calls in columns:
                entry = by_place.get((row, calls))
                column = [each for (_, steps), each in by_place.items() if steps == calls]
                texts.append("" if entry is None else content(entry, column))
            lines.append([row, *texts])
        return markdown_table(["sampler \\ network calls", *map(str, columns)], lines)


def _content(together: Sequence[type[MetricConfig]], entry: ScoreEntry, _: Sequence[ScoreEntry]) -> str:
    """Format the mean of a metric with its spread; of several metrics in one table, their means."""
    means = {schema: entry.mean(schema.name) for schema in together}
    if any(mean is None for mean in means.values()):
        return ""
    spread = entry.spread(together[0].name) if len(together) == 1 else None
    text = " / ".join(f"{mean:{schema.format}}" for schema, mean in means.items())
    return text if spread is None else f"{text} ± {spread:.2g}"
