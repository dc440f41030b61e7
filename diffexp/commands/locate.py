"""Choose the directory of a training: a new one, or that of a run to resume."""

import logging
import os
from dataclasses import replace
from pathlib import Path

from diffexp.config.fields import absolute
from diffexp.config.load import load_experiment
from diffexp.config.merge import as_dict, differing
from diffexp.config.schemas.experiment import Experiment
from diffexp.errors import UserError
from diffexp.runs.directory import RUN_VARIABLE, Run, new_run
from diffexp.system.distributed import is_main_process
from diffexp.system.srun import srun_tasks

log = logging.getLogger(__name__)

# Keys that may differ when a run is resumed: duration, place and recording, which do not change the result.
_CHANGEABLE = (
    *("name", "runs_dir", "run_dir", "loggers", "wandb.", "sample_grid", "score", "checkpoint."),
    *(
        "training.max_steps",
        "training.log_every_n_steps",
        "training.accelerator",
        "training.devices",
        "training.num_nodes",
    ),
    *("optim.skip_nonfinite", "model.autoencoder", "model.gradient_variance"),
    *("data.path", "data.test_path", "data.root", "data.num_workers", "data.memory_gb", "data.on_decode_error"),
)


def located(experiment: Experiment) -> Experiment:
    """Return the experiment with absolute paths, which stay valid wherever it is resumed."""
    score = experiment.score
    if score is not None:
        score = replace(
            score, extractor=score.extractor.with_absolute_paths(), reference=score.reference.with_absolute_paths()
        )
    init = None if experiment.init is None else str(Path(experiment.init).absolute())
    model = absolute(experiment.model, list(experiment.model.trained_parts()))
    return replace(experiment, data=experiment.data.with_absolute_paths(), model=model, score=score, init=init)


def locate_run(experiment: Experiment, config: Path, *, resume: bool) -> Run:
    """Choose the directory of a training: a new one, or that of a run to resume.

    Args:
        experiment: the experiment to train.
        config: the file that it was read from.
        resume: whether to resume.

    Raises:
        UserError: as `resume_run` and `start_run` do.
    """
    return resume_run(config, experiment) if resume else start_run(experiment)


def start_run(experiment: Experiment) -> Run:
    """Choose the directory of a new run; other processes of a launcher use that of rank 0.

    Raises:
        UserError: if the directory holds a run, or several processes were started without run_dir.
    """
    if RUN_VARIABLE in os.environ and not is_main_process():
        return Run(Path(os.environ[RUN_VARIABLE]))
    if (srun_tasks() or int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        if experiment.run_dir is None:
            raise UserError("run_dir: expected a directory that all processes share, got null. Set run_dir.")
        if not is_main_process():
            return Run(Path(experiment.run_dir))
    return new_run(experiment)


def check_same(before: Experiment, now: Experiment, source: str) -> None:
    """Check that two experiments compute the same result; duration, place and recording may differ.

    Args:
        before: the experiment to resume.
        now: the requested experiment.
        source: where `before` was found, for the message.

    Raises:
        UserError: naming the keys that differ.
    """
    changed = [
        f"  {key}: {old} in the run, {new} now"
        for key, old, new in differing(as_dict(before), as_dict(now))
        if not key.startswith(_CHANGEABLE)
    ]
    if changed:
        lines = "\n".join(changed)
        raise UserError(
            f"{source}: cannot resume, as these keys change the result:\n{lines}\n"
            "Start a new run without --resume, in another run_dir."
        )


def resume_run(config: Path, experiment: Experiment) -> Run:
    """Find the run to resume: run_dir, else the directory of the config file.

    Without a run in run_dir, it starts a new one there.

    Args:
        config: the config file; a run's own config.yaml selects that run.
        experiment: the requested experiment, which may differ from the run only in duration, place and recording.

    Raises:
        UserError: if there is no such run, or the run computes another result.
    """
    path = Path(experiment.run_dir) if experiment.run_dir is not None else config.parent
    run = Run(path)
    if not run.exists() and experiment.run_dir is not None:
        return start_run(experiment)
    if not run.environment.is_file():
        raise UserError(f"--resume: expected a run directory, got {config}. Give the run directory, or run_dir=…")
    before = load_experiment(str(run.config))
    check_same(before, experiment, f"--resume: {path}")
    if before.training.max_steps != experiment.training.max_steps and experiment.optim.decay == "cosine":
        log.warning(
            "training.max_steps: expected %d as in the run, got %d. The learning rate leaves its cosine, so the result "
            "differs from a run of %d steps from the start.",
            *(before.training.max_steps, experiment.training.max_steps, experiment.training.max_steps),
        )
    return run
