"""The score table of one checkpoint, as in the DDIM paper: samplers × steps × spacings from the same initial noise."""

import csv
import io
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from diffexp.config.schemas.metrics import MetricConfig, metrics
from diffexp.errors import UserError, writing
from diffexp.evaluation.score_entry import ScoreEntry
from diffexp.evaluation.scores import known_metrics
from diffexp.formatting import markdown_table, pm
from diffexp.runs.influences import read_influences, table_influences, write_influences
from diffexp.statistics.comparison import compare
from diffexp.statistics.scores import estimate_scores
from diffexp.system.files import atomic_write_text, refuse_others


@dataclass
class ScoreTable:
    """Entries and their common settings.

    Attributes:
        about: plain data: checkpoint, weights, count, protocol, …; only a table with the same data is resumed.
        metric: the name of the distance, including extractor and count.
        protocol: the protocol's id.
        entries: the entries, row by row.
        saved: the files of influences that are known to be written.
    """

    about: dict[str, Any]
    metric: str
    protocol: str
    entries: list[ScoreEntry]
    saved: set[Path] = field(default_factory=set, repr=False, compare=False)

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
        for entry in self.entries:
            for number, scores in enumerate(entry.repeats):
                path = table_influences(folder, entry.row, entry.network_calls, number)
                entry.repeats[number] = scores.with_influences(read_influences(path))
                self.saved.add(path)

    def write(self, folder: Path) -> None:
        """Write table.json, table.csv, table.md and the influences of new scores, each file atomically.

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
            for entry in self.entries:
                for number, scores in enumerate(entry.repeats):
                    path = table_influences(folder, entry.row, entry.network_calls, number)
                    if path not in self.saved and scores.influences():
                        write_influences(path, scores.influences())
                        self.saved.add(path)
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
            f"lowest score, and = marks those that do not differ from it significantly{_tested(self.marks().values())}."
            "\n"
        )
        parts.append(self._grid(self._distance(self.marks())))
        for title, together in self._titles(done).items():
            parts += [f"{title}:\n", self._grid(partial(_content, together))]
        parts.append(f"Seconds for {about['count']} images ({about['device']}):\n")
        parts.append(self._grid(lambda entry: f"{fmean(entry.seconds):.1f}"))
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

    def marks(self) -> dict[tuple[str, int], tuple[str, str]]:
        """Compare the Fréchet distances of each column.

        Returns:
            For each (row, network calls) that is the best of its column or ties with it: the mark, "best" or "tie", and
            the test.
        """
        found = {}
        for calls in {entry.network_calls for entry in self.entries}:
            column = [each for each in self.entries if each.network_calls == calls and each.values("fd")]
            if len({len(each.values("fd")) for each in column}) > 1:
                continue  # an evaluation that is not complete: the shown means are of other images
            estimates = estimate_scores([each.scored("fd", self.about["seed"]) for each in column])
            if estimates is None or len(column) < 2:
                continue
            best, ties = compare(estimates).best_and_ties()
            for index in (best, *ties):
                mark = "best" if index == best else "tie"
                found[column[index].row, calls] = (mark, estimates.test)
        return found

    def _distance(self, marks: Mapping[tuple[str, int], tuple[str, str]]) -> Callable[[ScoreEntry], str]:
        many = max(len(each.repeats) for each in self.entries)

        def text(entry: ScoreEntry) -> str:
            plain = pm(entry.mean("fd") or 0.0, entry.spread("fd")) + (" ¹" if len(entry.repeats) == 1 < many else "")
            mark, _ = marks.get((entry.row, entry.network_calls), ("", ""))
            return f"**{plain}**" if mark == "best" else f"{plain} =" if mark == "tie" else plain

        return text

    def _grid(self, content: Callable[[ScoreEntry], str]) -> str:
        """Format a table with samplers as rows and network calls as columns."""
        rows = list(dict.fromkeys(entry.row for entry in self.entries))
        columns = sorted({entry.network_calls for entry in self.entries})
        by_place = {(entry.row, entry.network_calls): entry for entry in self.entries if entry.repeats}
        lines = [
            [row, *(content(by_place[row, calls]) if (row, calls) in by_place else "" for calls in columns)]
            for row in rows
        ]
        return markdown_table(["sampler \\ network calls", *map(str, columns)], lines)


def _tested(marks: Iterable[tuple[str, str]]) -> str:
    """Return the tests behind the marks in parentheses, or an empty string."""
    tests = list(dict.fromkeys(test for _, test in marks))
    return f" ({'; '.join(tests)}; two-sided 5 % over all pairs of the column)" if tests else ""


def _content(together: Sequence[type[MetricConfig]], entry: ScoreEntry) -> str:
    """Format the mean of a metric with its spread; of several metrics in one table, their means."""
    means = {schema: entry.mean(schema.name) for schema in together}
    if any(mean is None for mean in means.values()):
        return ""
    spread = entry.spread(together[0].name) if len(together) == 1 else None
    text = " / ".join(f"{mean:{schema.format}}" for schema, mean in means.items())
    return text if spread is None else f"{text} ± {spread:.2g}"
