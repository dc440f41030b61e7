"""Which directory a training gets: a new one, or that of a run to go on with."""

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

log = logging.getLogger(__name__)

# What may differ when a run is continued: how long, where, and what is recorded; not what is computed.
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
    *("data.path", "data.test_path", "data.root", "data.num_workers", "data.memory_gb"),
)


def located(experiment: Experiment) -> Experiment:
    """The experiment with absolute paths, which mean the same wherever it is resumed."""
    score = experiment.score
    if score is not None:
        score = replace(
            score, extractor=score.extractor.with_absolute_paths(), reference=score.reference.with_absolute_paths()
        )
    init = None if experiment.init is None else str(Path(experiment.init).absolute())
    model = absolute(experiment.model, list(experiment.model.trained_parts()))
    return replace(experiment, data=experiment.data.with_absolute_paths(), model=model, score=score, init=init)


def locate_run(experiment: Experiment, config: Path, *, resume: bool) -> Run:
    """The directory of a training: a new one, or that of a run to resume.

    Args:
        experiment: what is to be trained.
        config: the file that it was read from.
        resume: whether to resume.

    Raises:
        UserError: see `resume_run` and `start_run`.
    """
    return resume_run(config, experiment) if resume else start_run(experiment)


def start_run(experiment: Experiment) -> Run:
    """The directory of a new run; in processes that a launcher started, that of the first process.

    Raises:
        UserError: if it holds a run already, or several processes cannot agree on one.
    """
    if RUN_VARIABLE in os.environ and not is_main_process():
        return Run(Path(os.environ[RUN_VARIABLE]))
    if int(os.environ.get("SLURM_NTASKS", os.environ.get("WORLD_SIZE", "1"))) > 1:
        if experiment.run_dir is None:
            raise UserError("run_dir: must be given when several processes are started together")
        if not is_main_process():
            return Run(Path(experiment.run_dir))
    return new_run(experiment)


def check_same(before: Experiment, now: Experiment, who: str) -> None:
    """See that two experiments compute the same; how long, where, and what is recorded may differ.

    Raises:
        UserError: naming `who` has the former, and the keys that differ.
    """
    changed = [
        f"  {key}: {old} in the run, {new} now"
        for key, old, new in differing(as_dict(before), as_dict(now))
        if not key.startswith(_CHANGEABLE)
    ]
    if changed:
        told = "\n".join(changed)
        raise UserError(f"{who} computes something else:\n{told}\nthat is another run: without --resume, elsewhere")


def resume_run(config: Path, experiment: Experiment) -> Run:
    """The directory of a run to go on with: run_dir, else the one that the config file is in.

    Args:
        config: the config file; a run's own config.yaml says which run.
        experiment: what it asks for; may differ from the run only in how long and what is recorded.

    Raises:
        UserError: if no run is named, or the run computes something else.
    """
    path = Path(experiment.run_dir) if experiment.run_dir is not None else config.parent
    run = Run(path)
    if not run.exists() and experiment.run_dir is not None:
        return start_run(experiment)
    if not run.environment.is_file():
        raise UserError(f"--resume: {config} is not in a run's directory; give that (or its path as run_dir=…)")
    before = load_experiment(str(run.config))
    check_same(before, experiment, f"--resume: {path}")
    if before.training.max_steps != experiment.training.max_steps and experiment.optim.decay == "cosine":
        log.warning(
            "training.max_steps was %d and is %d: the learning rate leaves its cosine, so this is no longer the run "
            "that had %d steps from the start",
            *(before.training.max_steps, experiment.training.max_steps, experiment.training.max_steps),
        )
    return run
