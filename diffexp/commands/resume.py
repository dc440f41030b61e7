"""Which checkpoint a run resumes from, and what an interruption has left undone."""

import logging
from dataclasses import dataclass
from pathlib import Path

from diffexp.checkpoints.file import latest_valid_checkpoint, prune
from diffexp.checkpoints.paths import step_of
from diffexp.commands.locate import check_same
from diffexp.config.load import experiment_from_text, load_experiment
from diffexp.config.schemas.experiment import Experiment
from diffexp.errors import UserError
from diffexp.loggers.build import repair_metrics
from diffexp.runs.directory import Run
from diffexp.runs.metrics import read_metrics
from diffexp.runs.recovery import MetricsChecksum
from diffexp.system.best_effort import BestEffort, reason
from diffexp.system.distributed import is_main_process
from diffexp.system.files import remove_temporary_files

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResumePoint:
    """Where a run resumes.

    Attributes:
        path: the checkpoint.
        step: its optimiser step.
        checksum: of metrics.jsonl at that step; None in a checkpoint of an older version.
    """

    path: Path
    step: int
    checksum: MetricsChecksum | None


def newest_checkpoint(experiment: Experiment, run: Run, fingerprint: str) -> ResumePoint | None:
    """The newest checkpoint that is whole, and belongs to this experiment and these data; None at the beginning.

    Args:
        experiment: what is to be trained.
        run: its directory.
        fingerprint: of the training images.

    Raises:
        UserError: if there are checkpoints, but none like this.
    """
    found = latest_valid_checkpoint(run.checkpoints, quarantine=is_main_process())
    if found is None:
        _see_that_none_is_gone(run)
        return None
    path, content = found
    check_same(experiment_from_text(content["config"], str(path)), experiment, f"{path}: it")
    if content["data"] != fingerprint:
        raise UserError(f"data: the run was trained on {content['data']}; there are {fingerprint} now")
    if step_of(path) > experiment.training.max_steps:
        raise UserError(
            f"training.max_steps: {run.path} has done {step_of(path)} steps already, more than "
            f"{experiment.training.max_steps}"
        )
    return ResumePoint(path, step_of(path), MetricsChecksum.of(content))


def _see_that_none_is_gone(run: Run) -> None:
    """Refuse to begin anew in silence where checkpoints must have been saved, and are gone.

    Raises:
        UserError: if the logged curve goes beyond the step of the first one.
    """
    done = max((row["step"] for row in read_metrics(run.metrics)), default=0)
    if done and run.exists() and done > load_experiment(str(run.config)).checkpoint.every:
        raise UserError(
            f"{run.checkpoints}: the run has done {done} steps, but there is no checkpoint; bring one back, or remove "
            f"{run.metrics} to start from the beginning"
        )


def tidy(run: Run, keep: int | None) -> None:
    """Remove what a killed process had no time to: half-written files, and checkpoints that are no longer kept."""
    for folder in (run.path, run.checkpoints, run.samples, run.scores):
        remove_temporary_files(folder)
    with BestEffort(f"{run.checkpoints}: old checkpoints cannot be removed"):
        prune(run.checkpoints, keep)


def complete_records(run: Run, experiment: Experiment, start: ResumePoint) -> None:
    """Finish the records of a run that a kill ended after its last step."""
    try:
        repair_metrics(experiment.loggers, run, start.step, start.checksum)
        status = run.read_status()
        if (status.get("state"), status.get("step")) != ("finished", start.step):
            run.write_status("finished", start.step, start.step, seconds=run.seconds())
    except OSError as error:
        log.warning("%s: the run is complete, but its records cannot be written: %s", run.path, reason(error))
