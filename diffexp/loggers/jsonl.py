"""The logger of metrics.jsonl, the authoritative record of a run's metrics."""

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
    """Appends one JSON object per line: ``{"step": 50, "train/loss": 0.1, …}``.

    Lines that cannot be written, because the disk is full or missing, are buffered and written with the next line.
    `save` flushes all of them to disk.

    Args:
        path: the file.
        resume_step: lines of later steps are dropped first, because the resumed run repeats those steps.
        checksum: the checksum of the lines in the file when the checkpoint of that step was saved.

    Attributes:
        kept: the rows kept from the file.
        known: the keys of the kept rows of `resume_step`, which a resumed run may log a second time.
        latest: the step and the value of each metric that was logged, also a second time.
    """

    def __init__(self, path: Path, resume_step: int = 0, checksum: MetricsChecksum | None = None) -> None:
        super().__init__()
        self.path = path
        self.kept = kept_rows(path, resume_step, checksum)
        at_step = (with_current_metric_names(row) for row in self.kept if row["step"] == resume_step)
        self.known = {row_key(row, resume_step) for row in at_step}
        self.latest: dict[str, tuple[int, float]] = {}
        text = text_of(self.kept)
        atomic_write_text(path, text)
        self._length = len(text.encode())
        self._digest = hashlib.sha256(text.encode())
        self._waiting = b""
        self._best_effort = BestEffort(f"{path} cannot be written")

    @property
    def name(self) -> str:
        """The logger's name."""
        return "metrics"

    @property
    def version(self) -> str:
        """An empty string, because a run has one file."""
        return ""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a line, unless the run wrote it before it was interrupted."""
        values = {name: float(value) for name, value in metrics.items()}
        self.latest |= {name: (step or 0, value) for name, value in values.items()}
        if row_key(metrics, step) in self.known:
            return
        self._waiting += (json.dumps({"step": step, **values}) + "\n").encode()
        with self._best_effort:
            self._write()

    def save(self) -> None:
        """Write all lines and flush them to disk.

        Raises:
            OSError: if that fails.
        """
        self._write()
        with self.path.open("rb") as file:
            os.fsync(file.fileno())

    def checksum(self) -> MetricsChecksum:
        """Return the checksum of the written lines, for a checkpoint."""
        return MetricsChecksum(self._length, self._digest.hexdigest())

    def finalize(self, status: str) -> None:
        """Retry writing the buffered lines."""
        with self._best_effort:
            self._write()

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the config is in config.yaml."""

    def _write(self) -> None:
        # "r+b" instead of "ab" overwrites a line truncated by a full disk, and does not recreate a deleted file
        with self.path.open("r+b") as file:
            file.seek(self._length)
            file.write(self._waiting)
            file.truncate()
        self._length += len(self._waiting)
        self._digest.update(self._waiting)
        self._waiting = b""
