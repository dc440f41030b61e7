"""Where metrics go: metrics.jsonl, which is the truth, and the loggers of the config, which mirror it."""

import hashlib
import json
import os
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from diffexp.config.words import Wandb
from diffexp.files import write_text
from diffexp.hardware import is_main_process
from diffexp.mirrors import Mirror, MirrorWandb, connect_wandb, row_of
from diffexp.recovery import Row, Seal, kept_rows, mirrors, text_of
from diffexp.runs import Run
from diffexp.tolerance import Tolerance


class MetricsFile(Logger):
    """Appends one JSON object a line: ``{"step": 50, "train/loss": 0.1, …}``.

    What cannot be written, because the disk is full or away, is kept and written with the next. `save` brings all of it
    to the disk.

    Args:
        path: the file.
        resume_step: lines of later steps are dropped first: the run that wrote them did not keep those steps.
        seal: of the lines that were there when the checkpoint of that step was saved.

    Attributes:
        kept: the rows that were there.
        known: of these, those of the step itself, which a resumed run may make up for once more.
    """

    def __init__(self, path: Path, resume_step: int = 0, seal: Seal | None = None) -> None:
        super().__init__()
        self.path = path
        self.kept = kept_rows(path, resume_step, seal)
        self.known = {row_of(row, row["step"]) for row in self.kept if row["step"] == resume_step}
        text = text_of(self.kept)
        write_text(path, text)
        self._length = len(text.encode())
        self._digest = hashlib.sha256(text.encode())
        self._waiting = b""
        self._tolerance = Tolerance(f"{path} cannot be written")

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
        if row_of(metrics, step) in self.known:
            return
        values = {name: float(value) for name, value in metrics.items()}
        self._waiting += (json.dumps({"step": step, **values}) + "\n").encode()
        with self._tolerance:
            self._write()

    def save(self) -> None:
        """See that all lines are on the disk.

        Raises:
            OSError: if they are not.
        """
        self._write()
        with self.path.open("rb") as file:
            os.fsync(file.fileno())

    def seal(self) -> Seal:
        """What has been written, for a checkpoint."""
        return Seal(self._length, self._digest.hexdigest())

    def finalize(self, status: str) -> None:
        """Try once more to write what is waiting."""
        with self._tolerance:
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


class MirrorCSV(Mirror, CSVLogger):
    """metrics.csv."""

    kind = "csv"


class MirrorTensorBoard(Mirror, TensorBoardLogger):
    """The folder tensorboard/."""

    kind = "tensorboard"


def build_loggers(
    names: Sequence[str],
    run: Run,
    resume_step: int,
    settings: Wandb,
    config: dict[str, Any],
    seal: Seal | None = None,
) -> list[Logger]:
    """metrics.jsonl and the chosen loggers, continued after `resume_step`; on the main process only.

    Args:
        names: of the loggers: "csv", "tensorboard", "wandb".
        run: its directory, which has been described.
        resume_step: the step that the run goes on from.
        settings: where it appears in W&B.
        config: for W&B.
        seal: of metrics.jsonl, from the checkpoint of that step.
    """
    if not is_main_process():
        return []
    truth = MetricsFile(run.metrics, resume_step, seal)
    loggers: list[Logger] = [truth]
    for name in names:
        with Tolerance(f"the logger {name} cannot be started", Exception):
            logger = _BUILDERS[name](run, resume_step, settings, config, truth.kept)
            if logger is not None:
                logger.known = truth.known
                loggers.append(logger)
    return loggers


def repair_metrics(names: Sequence[str], run: Run, step: int, seal: Seal | None) -> None:
    """Check the metrics of a complete run, and write metrics.jsonl and metrics.csv where they lack or spoil a row.

    Args:
        names: of the run's loggers.
        run: its directory.
        step: the last one.
        seal: of metrics.jsonl, from the checkpoint of that step.
    """
    rows = kept_rows(run.metrics, step, seal)
    if not run.metrics.is_file() or run.metrics.read_bytes() != text_of(rows).encode():
        write_text(run.metrics, text_of(rows))
    if "csv" in names and not mirrors(run.path / "metrics.csv", rows):
        _csv(run, step, Wandb(), {}, rows)


def _csv(run: Run, resume_step: int, settings: Wandb, config: dict[str, Any], kept: Sequence[Row]) -> MirrorCSV:
    csv = MirrorCSV(run.path, name="", version="", flush_logs_every_n_steps=1)
    for row in kept:  # a CSVLogger replaces its file
        csv.log_metrics({key: value for key, value in row.items() if key != "step"}, row["step"])
    return csv


def _tensorboard(
    run: Run, resume_step: int, settings: Wandb, config: dict[str, Any], kept: Sequence[Row]
) -> MirrorTensorBoard:
    return MirrorTensorBoard(run.path, name="", version="tensorboard", purge_step=resume_step + 1)


def _wandb(
    run: Run, resume_step: int, settings: Wandb, config: dict[str, Any], kept: Sequence[Row]
) -> MirrorWandb | None:
    return connect_wandb(
        settings,
        run.path,
        name=settings.name or run.path.name,
        id=run.read_environment()["run_id"],  # the same after a resume
        group=settings.group,
        job_type=settings.job_type,
        config=config,  # at init: in a W&B sweep, what is logged later loses the swept subtrees
    )


_BUILDERS: dict[str, Callable[..., MirrorCSV | MirrorTensorBoard | MirrorWandb | None]] = {
    "csv": _csv,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}
