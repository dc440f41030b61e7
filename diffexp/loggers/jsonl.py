"""metrics.jsonl, which is the truth."""

import hashlib
import json
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from diffexp.loggers.best_effort import row_key
from diffexp.runs.metrics import with_current_metric_names
from diffexp.runs.recovery import MetricsChecksum, kept_rows, text_of
from diffexp.system.best_effort import BestEffort
from diffexp.system.files import atomic_write_text


class JSONLLogger(Logger):
    """Appends one JSON object a line: ``{"step": 50, "train/loss": 0.1, …}``.

    What cannot be written, because the disk is full or away, is kept and written with the next. `save` brings all of it
    to the disk.

    Args:
        path: the file.
        resume_step: lines of later steps are dropped first: the run that wrote them did not keep those steps.
        checksum: of the lines that were there when the checkpoint of that step was saved.

    Attributes:
        kept: the rows that were there.
        known: of these, those of the step itself, which a resumed run may make up for once more.
    """

    def __init__(self, path: Path, resume_step: int = 0, checksum: MetricsChecksum | None = None) -> None:
        super().__init__()
        self.path = path
        self.kept = kept_rows(path, resume_step, checksum)
        at_step = (with_current_metric_names(row) for row in self.kept if row["step"] == resume_step)
        self.known = {row_key(row, resume_step) for row in at_step}
        text = text_of(self.kept)
        atomic_write_text(path, text)
        self._length = len(text.encode())
        self._digest = hashlib.sha256(text.encode())
        self._waiting = b""
        self._best_effort = BestEffort(f"{path} cannot be written")

    @property
    def name(self) -> str:
        """The kind of the logger."""
        return "metrics"

    @property
    def version(self) -> str:
        """There is one file a run."""
        return ""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a line, unless the run wrote it before it was stopped."""
        if row_key(metrics, step) in self.known:
            return
        values = {name: float(value) for name, value in metrics.items()}
        self._waiting += (json.dumps({"step": step, **values}) + "\n").encode()
        with self._best_effort:
            self._write()

    def save(self) -> None:
        """See that all lines are on the disk.

        Raises:
            OSError: if they are not.
        """
        self._write()
        with self.path.open("rb") as file:
            os.fsync(file.fileno())

    def checksum(self) -> MetricsChecksum:
        """What has been written, for a checkpoint."""
        return MetricsChecksum(self._length, self._digest.hexdigest())

    def finalize(self, status: str) -> None:
        """Try once more to write what is waiting."""
        with self._best_effort:
            self._write()

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the config is in config.yaml."""

    def _write(self) -> None:
        # not appended: what a full disk left of a line is written over, and a file that vanished is not made anew
        with self.path.open("r+b") as file:
            file.seek(self._length)
            file.write(self._waiting)
            file.truncate()
        self._length += len(self._waiting)
        self._digest.update(self._waiting)
        self._waiting = b""
