"""The loggers of a run: metrics.jsonl, the authoritative record, and the loggers of the config."""

import logging
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning.pytorch.loggers import Logger
from PIL import Image

from diffexp.config.schemas.common import WandbConfig
from diffexp.config.schemas.loggers import LOGGERS
from diffexp.errors import UserError
from diffexp.loggers.base import LoggedRun, RunLogger
from diffexp.loggers.best_effort import BestEffortLogger
from diffexp.loggers.csv import CSVLogger
from diffexp.loggers.jsonl import JSONLLogger
from diffexp.runs.directory import Run
from diffexp.runs.recovery import MetricsChecksum, csv_holds, kept_rows, text_of
from diffexp.system.best_effort import reason
from diffexp.system.distributed import is_main_process
from diffexp.system.files import atomic_write_text
from diffexp.system.terminal import say

log = logging.getLogger(__name__)


def build_loggers(
    names: Sequence[str],
    run: Run,
    resume_step: int,
    settings: WandbConfig,
    config: dict[str, Any],
    checksum: MetricsChecksum | None = None,
) -> list[Logger]:
    """Build the loggers of metrics.jsonl and of the config, continued after `resume_step`; [] except on rank 0.

    Args:
        names: the names of the config's loggers in `LOGGERS`.
        run: the run's directory, which already has its description.
        resume_step: the step from which the run resumes.
        settings: project, group, job type and tags.
        config: the resolved config.
        checksum: the checksum of metrics.jsonl in the checkpoint of that step.
    """
    if not is_main_process():
        return []
    truth = JSONLLogger(run.metrics, resume_step, checksum)
    run_id = run.id() or secrets.token_hex(4)  # so that a tracker does not merge two runs without an id
    name = settings.name or run.path.name
    about = LoggedRun(run.path, run_id, name, config, settings, resume_step, truth.kept)
    for logger in (loggers := [start_logger(each, about) for each in names]):
        logger.known = truth.known
    return [truth, *loggers]


def tracker_names(names: Sequence[str]) -> list[str]:
    """Return the names of the loggers that compare runs."""
    return [name for name in names if LOGGERS.schema(name).is_tracker]  # type: ignore[attr-defined]  # a LoggerConfig


def check_loggers(names: Iterable[str]) -> None:
    """Check that the extras of loggers are installed.

    Raises:
        UserError: if the extra that one needs is not installed.
    """
    for name in names:
        try:
            LOGGERS.builder(name)
        except UserError:
            raise
        except Exception:  # `start_logger` warns of it, and the run continues without this logger
            continue


def start_logger(name: str, run: LoggedRun) -> BestEffortLogger:
    """Start a logger; after a warning, one that cannot be started is replaced by one that records nothing."""
    try:
        logger = LOGGERS.build(LOGGERS.schema(name)(), run)
        assert isinstance(logger, RunLogger)
    except Exception as error:
        log.warning("the logger %s cannot be started: %s; training continues", name, reason(error))
        logger = _NotStarted(name, run, reason(error))
    return BestEffortLogger(name, logger)


class _NotStarted(RunLogger):
    """Replaces a logger that could not be started, and says so again at the end of the run."""

    def __init__(self, name: str, run: LoggedRun, why: str) -> None:
        self.message = f"{name}: not recorded: {why}; the metrics are in {run.folder / 'metrics.jsonl'}"

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        pass

    def finish(self, exit_code: int) -> None:
        say(self.message)


def finish_loggers(loggers: Iterable[Logger], stopped_by: int | None = None, *, failed: bool = False) -> None:
    """Finish the run in every logger.

    Args:
        loggers: the run's loggers.
        stopped_by: the signal that stopped the run early.
        failed: whether the run ended with an error.
    """
    exit_code = int(failed) if stopped_by is None else 128 + stopped_by
    for logger in loggers:
        if isinstance(logger, BestEffortLogger):
            logger.finish(exit_code)


def log_images(loggers: Iterable[Logger], images: Mapping[str, Image.Image], step: int) -> None:
    """Log RGB images by name to the loggers that support them: diffexp's, and Lightning's that have `log_image`."""
    for logger in loggers:
        if isinstance(logger, BestEffortLogger):
            logger.log_images(images, step)
        elif hasattr(logger, "log_image"):
            for name, picture in images.items():
                logger.log_image(name, [picture], step=step)


def update_config(loggers: Iterable[Logger], values: Mapping[str, Any]) -> None:
    """Add values to the run's config in diffexp's loggers."""
    for logger in loggers:
        if isinstance(logger, BestEffortLogger):
            logger.update_config(values)


def repair_metrics(names: Sequence[str], run: Run, step: int, checksum: MetricsChecksum | None) -> None:
    """Check the metrics of a complete run, and rewrite metrics.jsonl or metrics.csv if a row is missing or damaged.

    Args:
        names: the names of the run's loggers.
        run: the run's directory.
        step: the last step.
        checksum: the checksum of metrics.jsonl in the checkpoint of that step.
    """
    rows = kept_rows(run.metrics, step, checksum)
    if not run.metrics.is_file() or run.metrics.read_bytes() != text_of(rows).encode():
        atomic_write_text(run.metrics, text_of(rows))
    if "csv" in names and not csv_holds(run.path / "metrics.csv", rows):
        CSVLogger(LoggedRun(run.path, "", "", {}, rows=rows))
