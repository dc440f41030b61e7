"""A logger of a run as one of Lightning's, whose failures are survived."""

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from lightning.pytorch.loggers import Logger
from PIL import Image

from diffexp.loggers.base import RunLogger
from diffexp.system.best_effort import BestEffort

# A logged row, but for its values: its step and its names.
RowKey = tuple[int | None, frozenset[str]]


def row_key(metrics: Mapping[str, Any], step: int | None) -> RowKey:
    """Which row metrics are that are logged at a step."""
    return step, frozenset(metrics) - {"step"}


class BestEffortLogger(Logger):
    """Hands everything to a `RunLogger`. If that fails, diffexp warns once, and again when it works.

    Args:
        name: of the logger, as a config writes it.
        logger: where everything goes.
        known: rows that were logged before the run was stopped, and are not logged again.
    """

    def __init__(self, name: str, logger: RunLogger, known: Set[RowKey] = frozenset()) -> None:
        super().__init__()
        self.logger = logger
        self.known = known
        self._name = name
        self._best_effort: dict[str, BestEffort] = {}

    @property
    def name(self) -> str:
        """The kind of the logger."""
        return self._name

    @property
    def version(self) -> str:
        """There is one a run."""
        return ""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log a row, unless it was before."""
        if row_key(metrics, step) not in self.known:
            values = {name: float(value) for name, value in metrics.items()}
            self._try("log_scalars", lambda: self.logger.log_scalars(values, step or 0))

    def log_images(self, images: Mapping[str, Image.Image], step: int) -> None:
        """Log RGB pictures by name."""
        self._try("log_images", lambda: self.logger.log_images(images, step))

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log a table, whose rows have the same keys."""
        self._try("log_table", lambda: self.logger.log_table(name, rows))

    def log_lines(self, name: str, lines: Mapping[str, Sequence[tuple[float, float]]], x_name: str) -> None:
        """Log a plot of lines of (x, y) by name."""
        self._try("log_lines", lambda: self.logger.log_lines(name, lines, x_name))

    def update_config(self, values: Mapping[str, Any]) -> None:
        """Add to the run's config."""
        self._try("update_config", lambda: self.logger.update_config(values))

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the logger had the config when it was started."""

    def save(self) -> None:
        """Bring what was logged to the disk."""
        self._try("save", self.logger.save)

    def finish(self, exit_code: int) -> None:
        """End the run; see `RunLogger.finish`."""
        self._try("finish", lambda: self.logger.finish(exit_code))

    def _try(self, what: str, action: Callable[[], None]) -> None:
        best_effort = BestEffort(f"the logger {self.name} cannot record", Exception)
        with self._best_effort.setdefault(what, best_effort):
            action()
