"""What a logger is: where a run's metrics, pictures and tables go besides metrics.jsonl."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from diffexp.config.schemas.common import WandbConfig
from diffexp.runs.recovery import Row


@dataclass(frozen=True)
class LoggedRun:
    """What a logger needs to know of a run.

    Attributes:
        folder: its directory.
        id: the same after a resume.
        name: for people.
        config: the resolved config, as plain data.
        settings: project, group, job type and tags.
        resume_step: the step that it resumes from; 0 for a new run.
        rows: the rows of metrics.jsonl until then.
    """

    folder: Path
    id: str
    name: str
    config: dict[str, Any]
    settings: WandbConfig = field(default_factory=WandbConfig)
    resume_step: int = 0
    rows: Sequence[Row] = ()


class RunLogger(ABC):
    """A tracker that a run is logged to. A method that raises costs its record, never the run: diffexp warns once.

    Args:
        run: what is logged.
    """

    # Whether it compares runs, so that tables of `diffexp evaluate` are worth a run of their own.
    is_tracker: ClassVar[bool] = True

    @abstractmethod
    def __init__(self, run: LoggedRun) -> None: ...

    @abstractmethod
    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics at a number of optimiser steps done."""

    def log_images(self, images: Mapping[str, Image.Image], step: int) -> None:
        """Log RGB pictures by name; by default do nothing."""

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log a table, whose rows have the same keys; by default do nothing."""

    def log_lines(self, name: str, lines: Mapping[str, Sequence[tuple[float, float]]], x_name: str) -> None:
        """Log a plot of lines of (x, y) by name; by default do nothing."""

    def update_config(self, values: Mapping[str, Any]) -> None:
        """Add to the run's config; by default do nothing."""

    def save(self) -> None:
        """Bring what was logged to the disk; by default do nothing."""

    def finish(self, exit_code: int) -> None:
        """End the run: 0, 1 for an error, 128 + n for the signal n; by default do nothing."""
