"""Choose the directory of a training: a new one, or that of a run to resume."""

import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from diffexp.checkpoints.paths import list_checkpoints
from diffexp.commands.changes import check_allowed, check_changes
from diffexp.config.fields import absolute
from diffexp.config.load import load_experiment
from diffexp.config.schemas.experiment import Experiment
from diffexp.errors import UserError
from diffexp.runs.directory import RUN_VARIABLE, Run, new_run
from diffexp.system.distributed import is_main_process
from diffexp.system.srun import srun_tasks


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


def locate_run(experiment: Experiment, config: Path, *, resume: bool, allowed: Collection[str] = ()) -> Run:
    """Choose the directory of a training: a new one, or that of a run to resume.

    Args:
        experiment: the experiment to train.
        config: the file that it was read from.
        resume: whether to resume.
        allowed: keys or sections that may change the result of a resumed run.

    Raises:
        UserError: as `resume_run` and `start_run` do, for `allowed` without `resume`, and for a key that cannot be
            allowed.
    """
    if allowed and not resume:
        raise UserError("--allow-change: expected --resume with it, got a new run. Add --resume.")
    check_allowed(allowed, experiment)
    return resume_run(config, experiment, allowed) if resume else start_run(experiment)


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


def resume_run(config: Path, experiment: Experiment, allowed: Collection[str] = ()) -> Run:
    """Find the run to resume: run_dir, else the directory of the config file.

    Without a run in run_dir, it starts a new one there.

    Args:
        config: the config file; a run's own config.yaml selects that run.
        experiment: the requested experiment; see `diffexp.commands.changes` for what may differ from the run.
        allowed: keys or sections that may change the result.

    Raises:
        UserError: if there is no such run, the run computes another result.
    """
    path = Path(experiment.run_dir) if experiment.run_dir is not None else config.parent
    run = Run(path)
    if not run.exists() and experiment.run_dir is not None:
        return start_run(experiment)
    if not run.exists() or not (run.environment.exists() or list_checkpoints(run.checkpoints)):
        raise UserError(f"--resume: expected a run directory, got {config}. Give the run directory, or run_dir=…")
    before = load_experiment(str(run.config))
    check_changes(before, experiment, f"--resume: {path}", allowed)
    return run
