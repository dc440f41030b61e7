"""Which checkpoint a run resumes from."""

from dataclasses import dataclass
from pathlib import Path

from diffexp.checkpoint_files import newest_whole
from diffexp.config import experiment_from_text, load_experiment
from diffexp.config.experiment import Experiment
from diffexp.errors import UserError
from diffexp.hardware import is_main_process
from diffexp.recovery import Seal
from diffexp.runs import Run, read_metrics, step_of
from diffexp.starting import check_same


@dataclass(frozen=True)
class ResumePoint:
    """Where a run resumes.

    Attributes:
        path: the checkpoint.
        step: its optimiser step.
        seal: of metrics.jsonl at that step; None in a checkpoint of an older version.
    """

    path: Path
    step: int
    seal: Seal | None


def newest_checkpoint(experiment: Experiment, run: Run, fingerprint: str) -> ResumePoint | None:
    """The newest checkpoint that is whole, and belongs to this experiment and these data; None at the beginning.

    Args:
        experiment: what is to be trained.
        run: its directory.
        fingerprint: of the training images.

    Raises:
        UserError: if there are checkpoints, but none like this.
    """
    found = newest_whole(run.checkpoints, set_aside=is_main_process())
    if found is None:
        _see_that_none_is_gone(run)
        return None
    path, content = found
    check_same(experiment_from_text(content["config"], str(path)), experiment, f"{path}: it")
    if content["data"] != fingerprint:
        raise UserError(f"data: the run was trained on {content['data']}; there are {fingerprint} now")
    if step_of(path) > experiment.training.steps:
        raise UserError(
            f"training.steps: {run.path} has done {step_of(path)} steps already, more than {experiment.training.steps}"
        )
    return ResumePoint(path, step_of(path), Seal.of(content))


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
