"""The best checkpoint of a run by a logged metric, to which checkpoints/best.ckpt is a link."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from diffexp.checkpoints.paths import BEST, checkpoint_file
from diffexp.system.files import atomic_symlink


def is_better(value: float, than: float, mode: Literal["min", "max"]) -> bool:
    """Whether a value is better than another."""
    return value < than if mode == "min" else value > than


def best_saved(
    rows: Iterable[Mapping[str, Any]], folder: Path, metric: str, mode: Literal["min", "max"]
) -> tuple[float, Path] | None:
    """Return the best value of a metric at a step with a checkpoint, and the checkpoint; the earliest of equal ones.

    Args:
        rows: the logged rows.
        folder: the run's checkpoints/.
        metric: the metric's name.
        mode: whether the lowest or the highest value is the best.
    """
    found: tuple[float, Path] | None = None
    for row in rows:
        value = row.get(metric)
        if value is None or not math.isfinite(value) or (found is not None and not is_better(value, found[0], mode)):
            continue
        path = checkpoint_file(folder, row["step"])
        if path.is_file():
            found = value, path
    return found


def link_best(checkpoint: Path) -> None:
    """Make best.ckpt in a checkpoint's folder a link to it.

    The link is relative, so that a moved or copied run keeps it, and takes no space for content.

    Raises:
        OSError: if it cannot be written; an earlier link then remains.
    """
    atomic_symlink(checkpoint.with_name(BEST), checkpoint.name)
