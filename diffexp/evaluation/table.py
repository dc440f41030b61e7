"""The table of the DDIM paper from one checkpoint: samplers × steps × spacings, all from the same starting noise."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from diffexp.config.evaluation import EvaluateRequest
from diffexp.config.experiment import Experiment
from diffexp.config.merging import as_dict
from diffexp.config.variants import SAMPLERS, VariantConfig
from diffexp.errors import UserError
from diffexp.evaluation.ranking import Entry, best_and_ties
from diffexp.evaluation.scores import Scores
from diffexp.files import refuse_others, write_text


@dataclass
class Cell:
    """One sampler with one number of steps, and the scores of the blocks done so far.

    Attributes:
        sampler: with its steps.
        row: its label without the steps.
        network_calls: for each image.
        blocks: scores of disjoint blocks of images, in order.
        seconds: that drawing and extracting each block took.
    """

    sampler: VariantConfig
    row: str
    network_calls: int
    blocks: list[Scores] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def values(self, metric: str) -> list[float]:
        """A metric of `Scores.scalars` in each block; [] where it is not measured."""
        return [scalars[metric] for scalars in (block.scalars() for block in self.blocks) if metric in scalars]

    def measured(self) -> list[str]:
        """The names of the metrics that all this was measured with."""
        return [metric for metric in _METRICS if self.values(metric)]

    def mean(self, metric: str) -> float | None:
        """The mean over the blocks."""
        values = self.values(metric)
        return fmean(values) if values else None

    def spread(self, metric: str) -> float | None:
        """The standard deviation over the blocks; of a single block, its own standard error where it has one."""
        values = self.values(metric)
        return stdev(values) if len(values) > 1 else next(iter(self.values(f"{metric}_error")), None)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Cell":
        """From what `as_dict` gave.

        Raises:
            KeyError, TypeError: if it is something else.
        """
        sampler = SAMPLERS.schema(values["sampler"]["name"])(**values["sampler"])
        assert isinstance(sampler, VariantConfig)
        blocks = [Scores.from_dict(block) for block in values["blocks"]]
        # named by this version: a label omits defaults, and a default may have changed since
        return cls(sampler, sampler.label(), values["network_calls"], blocks, values["seconds"])

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "row": self.row,
            "network_calls": self.network_calls,
            "sampler": as_dict(self.sampler),
            "seconds": self.seconds,
            "blocks": [block.as_dict() for block in self.blocks],
            "mean": {metric: self.mean(metric) for metric in self.measured()},
            "spread": {metric: self.spread(metric) for metric in _METRICS if self.spread(metric) is not None},
        }


_METRICS = ("fd", "kd", "precision", "recall", "nearest", "copies", "inception_score")


def cells(request: EvaluateRequest, experiment: Experiment) -> list[Cell]:
    """The cells of a table, row by row.

    Args:
        request: what is asked for.
        experiment: what was trained; steps that its model has not are left out.

    Raises:
        UserError: if none are left.
    """
    model = experiment.model
    found: dict[tuple[str, int], Cell] = {}
    for sampler in request.samplers.values():
        for variant in model.cells(sampler, request.steps, request.spacings) if sampler is not None else ():
            row, calls = variant.label(), model.network_calls(variant, experiment.data)
            found.setdefault((row, calls), Cell(variant, row, calls))
    if not found:
        raise UserError("samplers, steps: nothing to evaluate with the steps that this model has; see --table")
    return list(found.values())


@dataclass
class Table:
    """Cells and what they have in common.

    Attributes:
        about: plain data: checkpoint, weights, count, protocol, … An unfinished table is only continued under the same.
        metric: the name of the distance, with extractor and count.
        protocol: its id.
        cells: row by row.
    """

    about: dict[str, Any]
    metric: str
    protocol: str
    cells: list[Cell]

    def take_up(self, folder: Path) -> None:
        """Take the blocks that an earlier evaluation has left there, and its cells that are not asked for now.

        Raises:
            UserError: if the folder holds another evaluation.
        """
        path = folder / "table.json"
        if not path.is_file():
            refuse_others(folder, "table.csv", "table.md")
            return
        try:
            before = json.loads(path.read_text())
            earlier = {(each.row, each.network_calls): each for each in map(Cell.from_dict, before["cells"])}
            about = before["about"]
            different = [key for key, value in self.about.items() if about.get(key) != json.loads(json.dumps(value))]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: is damaged. Remove the tables in {folder} to start over.") from error
        if different:
            raise UserError(
                f"out: {folder} holds an evaluation with another {', '.join(different)}; give another out=…"
            )
        for cell in self.cells:
            same = earlier.pop((cell.row, cell.network_calls), None)
            if same is not None and same.sampler == cell.sampler:
                cell.blocks, cell.seconds = same.blocks, same.seconds
        self.cells += earlier.values()

    def write(self, folder: Path) -> None:
        """Write table.json, table.csv and table.md, each whole.

        Raises:
            UserError: if that is impossible.
        """
        content = {
            "about": self.about,
            "metric": self.metric,
            "protocol": self.protocol,
            "cells": [cell.as_dict() for cell in self.cells],
        }
        try:
            write_text(folder / "table.json", json.dumps(content, indent=1) + "\n")
            write_text(folder / "table.csv", self.csv())
            write_text(folder / "table.md", self.markdown())
        except OSError as error:
            raise UserError(f"out: {folder} cannot be written: {error.strerror}") from error

    def records(self) -> list[dict[str, Any]]:
        """One flat record a finished cell, for CSV and W&B."""
        return [
            {
                "sampler": cell.row,
                "network_calls": cell.network_calls,
                **cell.sampler.columns(),
                **{metric: cell.mean(metric) for metric in _METRICS},
                "fd_spread": cell.spread("fd"),
                "kd_spread": cell.spread("kd"),
                "fd_floor": cell.mean("fd_floor"),
                "seconds": fmean(cell.seconds),
                "blocks": len(cell.blocks),
                **{key: self.about[key] for key in ("weights", "count", "reference", "extractor", "quantisation")},
                "protocol": self.protocol,
            }
            for cell in self.cells
            if cell.blocks
        ]

    def csv(self) -> str:
        """The records as CSV."""
        records = self.records()
        text = io.StringIO()
        if records:
            writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(records)
        return text.getvalue()

    def markdown(self) -> str:
        """The tables as Markdown: the distance with its spread first, then what belongs beside it."""
        about, done = self.about, [cell for cell in self.cells if cell.blocks]
        parts = [f"# {about['name']}, step {about['step']}, {about['weights']} weights\n"]
        if not done:
            return parts[0]
        floor = fmean(cell.mean("fd_floor") or 0.0 for cell in done)
        numbers = sorted({len(cell.blocks) for cell in done})
        blocks = (
            "with standard errors, "
            if numbers == [1]
            else f"mean ± standard deviation over {numbers[-1]} disjoint blocks of "
        )
        single = " (¹ a single block, with its standard error)" if numbers[0] < numbers[-1] else ""
        parts.append(
            f"`{self.metric}`, {blocks}{about['count']} images{single}, against {about['reference']}; protocol "
            f"{self.protocol}. A perfect generator would have about {floor:.3g}. In each column, bold is the lowest, "
            "and = cannot be told from it.\n"
        )
        parts.append(self._grid(self._distance))
        if any(cell.values("kd") for cell in done):
            parts.append("Kernel distance (unbiased: a perfect generator would have 0):\n")
            parts.append(self._grid(lambda cell, _: _pm(cell, "kd")))
            parts.append("Precision / recall:\n")
            parts.append(self._grid(lambda cell, _: _pair(cell, "precision", "recall")))
        if any(cell.values("nearest") for cell in done):
            parts.append(
                "Distance to the nearest training image, as a multiple of that between training images / share nearer "
                "than all but 1 % of these:\n"
            )
            parts.append(self._grid(lambda cell, _: _pair(cell, "nearest", "copies")))
        if any(cell.values("inception_score") for cell in done):
            parts.append("Inception score:\n")
            parts.append(self._grid(lambda cell, _: _pm(cell, "inception_score")))
        parts.append(f"Seconds for {about['count']} images ({about['device']}):\n")
        parts.append(self._grid(lambda cell, _: f"{fmean(cell.seconds):.1f}"))
        for warning in sorted({text for cell in done for block in cell.blocks for text in block.warnings()}):
            parts.append(f"Warning: {warning}\n")
        return "\n".join(parts)

    def _distance(self, cell: Cell, column: Sequence[Cell]) -> str:
        text = _pm(cell, "fd") + (" ¹" if len(cell.blocks) == 1 < max(len(each.blocks) for each in self.cells) else "")
        entries = [Entry(each.mean("fd") or 0.0, each.spread("fd") or 0.0, self.protocol) for each in column]
        best, ties = best_and_ties(entries)
        mine = next(index for index, each in enumerate(column) if each is cell)
        return f"**{text}**" if mine == best else f"{text} =" if mine in ties else text

    def _grid(self, content: Any) -> str:
        """Rows: samplers; columns: network calls."""
        rows = list(dict.fromkeys(cell.row for cell in self.cells))
        columns = sorted({cell.network_calls for cell in self.cells})
        by_place = {(cell.row, cell.network_calls): cell for cell in self.cells if cell.blocks}
        lines = [
            "| sampler \\ network calls | " + " | ".join(map(str, columns)) + " |",
            "|---" * (len(columns) + 1) + "|",
        ]
        for row in rows:
            texts = []
            for calls in columns:
                cell = by_place.get((row, calls))
                column = [each for (_, steps), each in by_place.items() if steps == calls]
                texts.append("" if cell is None else content(cell, column))
            lines.append(f"| {row} | " + " | ".join(texts) + " |")
        return "\n".join(lines) + "\n"


def _pm(cell: Cell, metric: str) -> str:
    """The mean, and its spread with two digits."""
    mean, spread = cell.mean(metric), cell.spread(metric)
    if mean is None:
        return ""
    return f"{mean:.4g}" if spread is None else f"{mean:.4g} ± {spread:.2g}"


def _pair(cell: Cell, first: str, second: str) -> str:
    """Two means that are only read together."""
    one, other = cell.mean(first), cell.mean(second)
    return "" if one is None or other is None else f"{one:.3f} / {other:.3f}"
