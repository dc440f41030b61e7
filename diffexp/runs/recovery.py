"""Check the rows of metrics.jsonl that a resumed run keeps, and recover damaged ones from metrics.csv.

Every checkpoint holds the length and the SHA-256 of metrics.jsonl when it was saved, which detect any changed bit up to
that length. metrics.csv holds the same rows if the run has that logger.
"""

import csv
import hashlib
import io
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffexp.runs.metrics import ParsedMetrics, line_numbers, parse_metrics
from diffexp.system.files import atomic_write, damaged_name
from diffexp.system.reading import open_regular

log = logging.getLogger(__name__)

Row = dict[str, Any]

_STEP = re.compile(rb'\{"step": (\d+),')  # how each line starts; a torn line still shows its step


@dataclass(frozen=True)
class MetricsChecksum:
    """The length in bytes and the SHA-256 of metrics.jsonl when a checkpoint was saved."""

    length: int
    sha256: str

    @classmethod
    def of(cls, content: dict[str, Any]) -> "MetricsChecksum | None":
        """Return the checksum in a checkpoint, or None for a checkpoint of an older version."""
        values = content.get("metrics")
        return cls(values["length"], values["sha256"]) if isinstance(values, dict) else None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, for a checkpoint."""
        return asdict(self)

    def fits(self, content: bytes) -> bool:
        """Whether a file still starts with the recorded content."""
        return len(content) >= self.length and hashlib.sha256(content[: self.length]).hexdigest() == self.sha256


def text_of(rows: Iterable[Row]) -> str:
    """Return the rows as lines of metrics.jsonl."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def kept_rows(path: Path, step: int, checksum: MetricsChecksum | None) -> list[Row]:
    """Return the rows up to a step, in order. diffexp warns of damaged files and keeps them under other names.

    Args:
        path: a metrics.jsonl; the metrics.csv in its folder is read, too.
        step: the step that the run resumes from.
        checksum: the checksum in the checkpoint of that step.
    """
    if path.is_dir():
        kept = damaged_name(path)
        path.rename(kept)
        log.warning("%s: expected a file, got a folder, which is kept as %s.", path, kept.name)
    content = path.read_bytes() if path.is_file() else b""
    parsed = parse_metrics(content)
    numbered = {number: row for number, row in parsed.rows.items() if row["step"] <= step}
    if step == 0:  # the run starts from scratch and logs everything
        return list(numbered.values())
    mirror = path.with_name("metrics.csv")
    mirrored, mirror_damaged = read_csv(mirror)
    mirrored = _in_order_of(numbered.values(), [row for row in mirrored if row["step"] <= step])
    damaged = _damaged(content, parsed, step)
    changed = checksum is not None and not checksum.fits(content)
    if checksum is not None and not changed:
        damaged += _misplaced(parsed.rows, content[: checksum.length].count(b"\n") + 1, step, mirrored)
    rows = [row for number, row in numbered.items() if number not in damaged]
    chosen, proven = rows, False
    if damaged or changed:
        chosen, proven = _recovered(rows, mirrored, mirror_damaged, checksum)
        known = _counts(chosen)
        damaged = sorted({*damaged, *(number for number, row in numbered.items() if _key(row) not in known)})
    elif _counts(mirrored) > _counts(rows):  # a strict superset
        chosen, changed = mirrored, True
    if damaged or changed:
        found = (_counts(chosen) - _counts(rows)).total()
        log.warning(
            "%s: expected the rows logged until step %d, got %s. diffexp recovered %d of them from metrics.csv; %s.%s",
            *(path, step, f"damage in {line_numbers(damaged)}" if damaged else "others or fewer", found),
            "the result is what the checkpoint was saved with" if proven else "rows may be missing or wrong",
            f" The old file is kept as {_copy(path, content)}." if content else "",
        )
    lost = _counts(mirrored) - _counts(chosen)
    if lost or mirror_damaged:
        kept = damaged_name(mirror)
        mirror.rename(kept)
        steps = ", ".join(map(str, sorted({at for at, _ in lost})[:10]))
        log.warning(
            "%s: expected the rows of metrics.jsonl, got %s. diffexp uses metrics.jsonl. The old file is kept as %s.",
            *(mirror, f"others at step {steps}" if lost else "damaged lines", kept.name),
        )
    return chosen


def read_csv(path: Path) -> tuple[list[Row], bool]:
    """Return the rows of a metrics.csv, and whether any line is damaged; a last line without a newline is ignored.

    Returns:
        [] and False if there is no file; [] and True if it is a folder or a device.
    """
    try:
        with open_regular(path) as file:
            content = file.read()
    except OSError:
        return [], os.path.lexists(path) and not path.is_file()
    text = content[: content.rfind(b"\n") + 1].decode(errors="replace")
    rows, damaged = [], False
    try:
        lines = csv.reader(io.StringIO(text, newline=""))
        names = next(lines, ["step"])
        damaged = "step" not in names or len(set(names)) < len(names)
        for fields in lines if not damaged else ():
            try:
                values = {name: field for name, field in zip(names, fields, strict=True) if field}
                step = int(values.pop("step"))
                rows.append({"step": step, **{name: _number(field) for name, field in values.items()}})
            except (ValueError, KeyError):
                damaged = True
    except csv.Error:
        damaged = True
    return rows, damaged


def csv_holds(path: Path, rows: Sequence[Row]) -> bool:
    """Whether a metrics.csv holds exactly these rows."""
    found, damaged = read_csv(path)
    return not damaged and _counts(found) == _counts(rows)


def _number(text: str) -> float:
    return float({"True": "1", "False": "0"}.get(text, text))


def _key(row: Row) -> tuple[int, frozenset[tuple[str, str]]]:
    """Return a row's content as a hashable key; NaN equals NaN."""
    return row["step"], frozenset((name, repr(float(value))) for name, value in row.items())


def _counts(rows: Iterable[Row]) -> Counter[tuple[int, frozenset[tuple[str, str]]]]:
    return Counter(map(_key, rows))


def _names(row: Row) -> tuple[int, frozenset[str]]:
    return row["step"], frozenset(row)


def _in_order_of(rows: Iterable[Row], others: Iterable[Row]) -> list[Row]:
    """Reorder the names in `others` like those of a row with the same names; metrics.csv sorts them."""
    orders = {frozenset(row): list(row) for row in rows}
    return [{name: row[name] for name in orders.get(frozenset(row), row)} for row in others]


def _damaged(content: bytes, parsed: ParsedMetrics, step: int) -> list[int]:
    """Return the numbers of the damaged lines that may belong to this step or an earlier one."""
    lines = content.split(b"\n")
    later = min((number for number, row in parsed.rows.items() if row["step"] > step), default=len(lines) + 1)
    numbers = [*parsed.damaged, *([len(lines)] if parsed.torn else [])]
    steps = {number: _STEP.match(lines[number - 1]) for number in numbers if number < later}
    return [number for number, match in steps.items() if match is None or int(match[1]) <= step]


def _misplaced(rows: dict[int, Row], first: int, step: int, mirrored: Sequence[Row]) -> list[int]:
    """Return the numbers of the rows from line `first` that a run cannot have logged after its checkpoint of a step.

    A run logs scores of that step, each once, and then rows of later steps; Lightning's own `log` may lag by one step.
    A changed digit breaks that order. Rows that metrics.csv also holds are accepted.
    """
    held, highest, found = _counts(mirrored), step, []
    seen = {_names(row) for number, row in rows.items() if number < first}
    for number, row in ((number, row) for number, row in rows.items() if number >= first):
        odd = highest > step + 1 or row["step"] < step - 1 or _names(row) in seen
        if odd and row["step"] <= step and _key(row) not in held:
            found.append(number)
        highest = max(highest, row["step"])
        seen.add(_names(row))
    return found


def _recovered(
    rows: list[Row], mirrored: list[Row], mirror_damaged: bool, checksum: MetricsChecksum | None
) -> tuple[list[Row], bool]:
    """Return the most credible rows from both files, and whether the checksum proves them."""
    known = {_names(row) for row in rows}
    merged = sorted([*rows, *(row for row in mirrored if _names(row) not in known)], key=lambda row: int(row["step"]))
    last, held = (mirrored[-1]["step"] if mirrored else 0), {_names(row) for row in mirrored}
    # metrics.csv is written second, so a kill can leave it behind; a row with as many names is a changed one
    changed = {(row["step"], len(row)) for row in mirrored if _names(row) not in known}
    new = (row for row in rows if row["step"] >= last and _names(row) not in held)
    completed = [*mirrored, *(row for row in new if (row["step"], len(row)) not in changed)]
    proven = [each for each in (rows, completed, merged) if checksum and checksum.fits(text_of(each).encode())]
    if proven:
        return max(proven, key=len), True  # the checksum does not cover rows logged after the checkpoint
    return (completed if not mirror_damaged and len(completed) >= len(rows) else merged), False


def _copy(path: Path, content: bytes) -> str:
    """Keep a file's content under another name, and return it; the file remains until its successor is written."""
    kept = damaged_name(path)
    with atomic_write(kept) as file:
        file.write(content)
    return kept.name
