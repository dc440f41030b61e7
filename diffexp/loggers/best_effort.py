"""An adapter from diffexp's loggers to Lightning's, whose failures do not stop the run."""

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from lightning.pytorch.loggers import Logger
from PIL import Image

from diffexp.loggers.base import RunLogger
from diffexp.system.best_effort import BestEffort

# The key of a logged row: its step and the names of its metrics.
RowKey = tuple[int | None, frozenset[str]]


def row_key(metrics: Mapping[str, Any], step: int | None) -> RowKey:
    """Return the key of the row of metrics at a step."""
    return step, frozenset(metrics) - {"step"}


class BestEffortLogger(Logger):
    """Forwards every call to a `RunLogger`. If one fails, diffexp warns once, and once more when it works again.

    Args:
        name: the logger's name in a config.
        logger: the logger that receives the calls.
        known: rows that were logged before the run was interrupted; they are skipped.
    """

    def __init__(self, name: str, logger: RunLogger, known: Set[RowKey] = frozenset()) -> None:
        super().__init__()
        self.logger = logger
        self.known = known
        self._name = name
        self._best_effort: dict[str, BestEffort] = {}

    @property
    def name(self) -> str:
        """The logger's name in a config."""
        return self._name

    @property
    def version(self) -> str:
        """An empty string, because a run has one logger of each name."""
        return ""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log a row, unless it was logged before the interruption."""
        if row_key(metrics, step) not in self.known:
            values = {name: float(value) for name, value in metrics.items()}
            self._try("log_scalars", lambda: self.logger.log_scalars(values, step or 0))

    def log_images(self, images: Mapping[str, Image.Image], step: int) -> None:
        """Log RGB images by name."""
        self._try("log_images", lambda: self.logger.log_images(images, step))

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log a table, whose rows have the same keys."""
        self._try("log_table", lambda: self.logger.log_table(name, rows))

    def log_lines(self, name: str, lines: Mapping[str, Sequence[tuple[float, float]]], x_name: str) -> None:
        """Log a plot of named lines of (x, y) points."""
        self._try("log_lines", lambda: self.logger.log_lines(name, lines, x_name))

    def update_config(self, values: Mapping[str, Any]) -> None:
        """Add values to the run's config."""
        self._try("update_config", lambda: self.logger.update_config(values))

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the logger received the config when it started."""

    def save(self) -> None:
        """Flush the records to disk."""
        self._try("save", self.logger.save)

    def finish(self, exit_code: int) -> None:
        """Finish the run with an exit code of `RunLogger.finish`."""
        self._try("finish", lambda: self.logger.finish(exit_code))

    def _try(self, what: str, action: Callable[[], None]) -> None:
        best_effort = BestEffort(f"the logger {self.name} cannot record", Exception)
        with self._best_effort.setdefault(what, best_effort):
            action()
