"""The interface of loggers, which record a run's metrics, images and tables in addition to metrics.jsonl."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from diffexp.config.schemas.common import WandbConfig
from diffexp.runs.recovery import Row


@dataclass(frozen=True)
class LoggedRun:
    """The description of a run that a logger receives.

    Attributes:
        folder: the run's directory.
        id: its id, which does not change on resume.
        name: its display name.
        config: the resolved config as plain data.
        settings: project, group, job type and tags.
        resume_step: the step from which the run resumes; 0 for a new run.
        rows: the rows of metrics.jsonl up to that step.
    """

    folder: Path
    id: str
    name: str
    config: dict[str, Any]
    settings: WandbConfig = field(default_factory=WandbConfig)
    resume_step: int = 0
    rows: Sequence[Row] = ()


class RunLogger(ABC):
    """A logger of a run. If a method raises, its record is lost, diffexp warns once, and the run continues.

    Args:
        run: the run to log.
    """

    @abstractmethod
    def __init__(self, run: LoggedRun) -> None: ...

    @abstractmethod
    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics after `step` optimiser steps."""

    def log_images(self, images: Mapping[str, Image.Image], step: int) -> None:
        """Log RGB images by name; does nothing by default."""

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log a table, whose rows have the same keys; does nothing by default."""

    def log_lines(self, name: str, lines: Mapping[str, Sequence[tuple[float, float]]], x_name: str) -> None:
        """Log a plot of named lines of (x, y) points; does nothing by default."""

    def update_config(self, values: Mapping[str, Any]) -> None:
        """Add values to the run's config; does nothing by default."""

    def save(self) -> None:
        """Flush the records to disk; does nothing by default."""

    def finish(self, exit_code: int) -> None:
        """Finish the run with 0, 1 for an error, or 128 + n for signal n; does nothing by default."""
