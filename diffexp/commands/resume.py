"""Find the checkpoint that a run resumes from, and finish what an interruption left incomplete."""

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffexp.checkpoints.best import best_saved, link_best
from diffexp.checkpoints.file import latest_valid_checkpoint, prune
from diffexp.checkpoints.paths import step_of
from diffexp.commands.changes import check_changes, report_changes
from diffexp.config.context import Context
from diffexp.config.load import experiment_from_text, load_experiment
from diffexp.config.schemas.experiment import Experiment
from diffexp.data.datamodule import ImageDataModule
from diffexp.data.images import Fingerprint
from diffexp.data.places import only_lost
from diffexp.errors import EnvironmentFailure, UserError, writing
from diffexp.loggers.build import repair_metrics
from diffexp.runs.directory import Run
from diffexp.runs.metrics import read_metrics
from diffexp.runs.recovery import MetricsChecksum
from diffexp.system.best_effort import BestEffort, reason
from diffexp.system.distributed import is_main_process
from diffexp.system.files import remove_temporary_files, unused_name

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResumePoint:
    """The checkpoint that a run resumes from.

    Attributes:
        path: the checkpoint file.
        step: its optimiser step.
        checksum: the checksum of metrics.jsonl at that step; None for a checkpoint of an older version.
        changes: all changes of the run's config up to now that change its result, for environment.json.
    """

    path: Path
    step: int
    checksum: MetricsChecksum | None
    changes: list[dict[str, Any]] = field(default_factory=list)


def check_data_in_place(experiment: Experiment, run: Run) -> None:
    """Check that the images of a run that has started are where they were: a missing mount may come back.

    Raises:
        EnvironmentFailure: if they are not.
    """
    if not run.exists():
        return
    before = load_experiment(str(run.config)).data
    for key, problem in experiment.data.unavailable(Context()):
        if key in experiment.data.paths and getattr(before, key, None) == getattr(experiment.data, key):
            raise EnvironmentFailure(
                f"data.{key}: {problem} The run has read it before. "
                f"Restore or mount it, or set data.{key} to its new place."
            )


def newest_checkpoint(
    experiment: Experiment, run: Run, fingerprint: Fingerprint, allowed: Collection[str] = ()
) -> ResumePoint | None:
    """Return the latest intact checkpoint, or None if the run has not saved one.

    Args:
        experiment: the experiment to train.
        run: its directory.
        fingerprint: the fingerprint of the training images.
        allowed: keys or sections that may change the result.

    Raises:
        UserError: if the checkpoint belongs to another experiment or other images, is beyond training.max_steps, or if
            all checkpoints have vanished.
    """
    found = latest_valid_checkpoint(run.checkpoints, quarantine=is_main_process())
    if found is None:
        _check_that_none_vanished(run)
        return None
    path, content = found
    step, recorded = step_of(path), run.changes()
    # a change that was allowed before, after which no checkpoint was saved
    allowed = {*allowed, *(each["key"] for each in recorded if each["step"] >= step)}
    changes = check_changes(experiment_from_text(content["config"], str(path)), experiment, str(path), allowed)
    if content["data"] != fingerprint.text:
        _check_that_some_are_lost(experiment, content, fingerprint)
    if step > experiment.training.max_steps:
        raise UserError(
            f"training.max_steps: expected at least {step}, the steps that {run.path} has done, got "
            f"{experiment.training.max_steps}. Raise training.max_steps."
        )
    if is_main_process():
        report_changes(changes, experiment, step)
    earlier = [each for each in recorded if each["step"] < step]
    every = [*earlier, *(each.as_dict(step) for each in changes)]
    return ResumePoint(path, step, MetricsChecksum.of(content), every)


def _check_that_some_are_lost(experiment: Experiment, content: dict[str, Any], fingerprint: Fingerprint) -> None:
    """Check that other training images are those of the run, except for files that are gone or damaged.

    Raises:
        UserError: if they are not, or such files are not to be skipped.
    """
    difference = f"data: expected the run's training images ({content['data']}), got {fingerprint.text}"
    if not only_lost(fingerprint.images, content.get(ImageDataModule.__qualname__, {})):
        raise UserError(f"{difference}. Restore them, or start a new run.")
    if getattr(experiment.data, "on_decode_error", None) != "skip":
        raise UserError(
            f"{difference}: some files are gone or damaged, or were repaired. Restore them, or set "
            "data.on_decode_error=skip, with which the next image takes the place of each."
        )


def _check_that_none_vanished(run: Run) -> None:
    """Refuse to restart a run silently if its checkpoints have vanished.

    A run of version 0.2 or earlier has no record of its saves. It counts as saved if its logged curve extends beyond
    the step of the first checkpoint.

    Raises:
        UserError: if the run has saved a checkpoint.
    """
    done, saved = _logged_steps(run), run.read_environment().get("saved")
    if saved is None and done and run.exists():
        saved = done > load_experiment(str(run.config)).checkpoint.every
    if saved:
        raise UserError(
            f"{run.checkpoints}: expected a checkpoint, as the run has saved one, got none. Restore one, or remove the "
            "run's directory to start from scratch."
        )


def _logged_steps(run: Run) -> int:
    return max((row["step"] for row in read_metrics(run.metrics)), default=0)


def set_metrics_aside(run: Run) -> None:
    """Keep the metrics of a run that stopped before its first checkpoint under other names, as it starts again.

    Raises:
        UserError: if the directory is not writable.
        EnvironmentFailure: if the disk is full or failing.
    """
    done = _logged_steps(run)
    if not done:
        return
    kept = []
    with writing(f"run_dir: {run.path}"):
        for file in (run.metrics, run.metrics.with_suffix(".csv")):
            if file.is_file():
                kept.append(unused_name(file, "unsaved"))
                file.rename(kept[-1])
    log.warning(
        "%s: the run stopped after step %d, before its first checkpoint, so it starts again at step 0. Its metrics are "
        "kept as %s.",
        *(run.path, done, " and ".join(file.name for file in kept)),
    )


def tidy(run: Run, keep: int | None) -> None:
    """Remove the leftovers of a killed process: half-written files, and checkpoints beyond `keep`."""
    for folder in (run.path, run.checkpoints, run.samples, run.scores, run.validation):
        remove_temporary_files(folder)
    with BestEffort(f"{run.checkpoints}: old checkpoints cannot be removed"):
        prune(run.checkpoints, keep)


def complete_records(run: Run, experiment: Experiment, start: ResumePoint) -> None:
    """Complete the records of a run that was killed after its last step."""
    try:
        repair_metrics(experiment.loggers, run, start.step, start.checksum)
        wanted = experiment.checkpoint
        if wanted.monitor is not None:
            best = best_saved(read_metrics(run.metrics), run.checkpoints, wanted.monitor, wanted.mode)
            if best is not None:
                link_best(best[1])
        status = run.read_status()
        if (status.get("state"), status.get("step")) != ("finished", start.step):
            run.write_status("finished", start.step, start.step, seconds=run.seconds())
    except OSError as error:
        log.warning("%s: the run is complete, but its records cannot be written: %s", run.path, reason(error))
