"""Read the rows of a run's metrics.jsonl."""

import json
import logging
import os
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from diffexp.config.renamed import current_metric_name
from diffexp.errors import UserError
from diffexp.runs.records import read_record
from diffexp.system.notices import warn_once

log = logging.getLogger(__name__)

_LARGEST = 2**63  # of an integer that a run logs


@dataclass(frozen=True)
class ParsedMetrics:
    """The lines of a metrics.jsonl.

    Attributes:
        rows: the valid rows, by line number from 1.
        damaged: the numbers of the invalid lines.
        torn: the last line if it is incomplete, else b"": a process is writing it, or was killed while it did.
    """

    rows: dict[int, dict[str, Any]]
    damaged: list[int]
    torn: bytes


def parse_metrics(content: bytes) -> ParsedMetrics:
    """Separate the valid rows of a metrics.jsonl from lines that disks or interrupted copies damaged."""
    *lines, last = content.split(b"\n")
    found = {number: _row(line) for number, line in enumerate(lines, 1)}
    damaged = [number for number, row in found.items() if row is None]
    if last and (row := _row(last)) is not None:
        found[len(lines) + 1], last = row, b""
    return ParsedMetrics({number: row for number, row in found.items() if row is not None}, damaged, last)


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        pairs = json.loads(line.decode(), object_pairs_hook=list)
        row = dict(pairs)
    except (ValueError, TypeError, RecursionError):
        return None
    numbers = all(type(value) is float or (type(value) is int and abs(value) < _LARGEST) for value in row.values())
    complete = numbers and len(row) == len(pairs) and type(row.get("step")) is int and row["step"] >= 0
    return row if complete else None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics.jsonl, with the current names of metrics; [] if there is no file.

    diffexp warns of damaged lines and skips them.
    """
    if not os.path.lexists(path):
        return []
    try:
        parsed = parse_metrics(read_record(path, "diffexp continues without it."))
    except UserError as error:
        warn_once(str(error))
        return []
    if parsed.damaged:
        _warn_of_damage(path, tuple(parsed.damaged))
    return [with_current_metric_names(row) for row in parsed.rows.values()]


def with_current_metric_names(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with the current names of metrics, which an earlier version may have logged under others."""
    return {current_metric_name(name): value for name, value in row.items()}


@cache
def _warn_of_damage(path: Path, numbers: tuple[int, ...]) -> None:
    """Warn once: a sweep reads the metrics of a running trial repeatedly."""
    log.warning(
        "%s: expected metrics, got damage in %s, which diffexp skips. Resume the run with --resume to recover what its "
        "metrics.csv holds.",
        *(path, line_numbers(numbers)),
    )


def line_numbers(numbers: Collection[int]) -> str:
    """Return ``"line 3"`` or ``"lines 3, 7, 9"``, with the first ten of many."""
    few = 10
    text = ", ".join(map(str, sorted(numbers)[:few]))
    more = f" and {len(numbers) - few} more" if len(numbers) > few else ""
    return f"line{'s' * (len(numbers) != 1)} {text}{more}"
