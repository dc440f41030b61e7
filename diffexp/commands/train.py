"""`diffexp train`: build all parts from a config and fit; the only module that connects them."""

import os
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

import lightning as L

from diffexp.callbacks.best_checkpoint import BestCheckpoint
from diffexp.callbacks.checkpoint import StepCheckpoint
from diffexp.callbacks.ema import EMA
from diffexp.callbacks.progress import StepProgress
from diffexp.callbacks.sample_grid import GridCost, SampleGrid
from diffexp.callbacks.score import ScoreSamples
from diffexp.callbacks.status import StatusFile
from diffexp.callbacks.stop_on_signal import StopOnSignal
from diffexp.callbacks.time_estimate import TimeEstimate
from diffexp.callbacks.validation import Validation
from diffexp.checkpoints.init import init_weights
from diffexp.commands.locate import locate_run, located
from diffexp.commands.overview import print_overview
from diffexp.commands.resume import (
    ResumePoint,
    check_data_in_place,
    complete_records,
    newest_checkpoint,
    set_metrics_aside,
    tidy,
)
from diffexp.commands.trainer import build_trainer, choose_precision, fit, quieten
from diffexp.config.check import check_experiment
from diffexp.config.load import load_experiment
from diffexp.config.merge import as_dict
from diffexp.config.plugins import load_plugins
from diffexp.config.registry import imported
from diffexp.config.schemas.experiment import Experiment
from diffexp.config.sources import find_config
from diffexp.data.datamodule import ImageDataModule
from diffexp.loggers.build import build_loggers, check_loggers, finish_loggers
from diffexp.models.build import build_training_model, check_images
from diffexp.runs.directory import RUN_VARIABLE, Run, config_text
from diffexp.runs.environment import describe_environment
from diffexp.system.devices import determinism_restored
from diffexp.system.distributed import is_main_process
from diffexp.system.locks import locked
from diffexp.system.srun_start import all_tasks


@dataclass(frozen=True)
class Outcome:
    """The outcome of a training.

    Attributes:
        run: the run directory.
        step: optimiser steps done.
        steps: optimiser steps of the complete training.
        drawn: the cost of the last grid, by sampler.
        score: the callback that scored, or None.
        stopped_by: the signal that stopped training before the last step, or None.
        ended_early: why it ended before the last step otherwise, or None.
        is_main: whether this process reports, which is rank 0.
    """

    run: Run
    step: int
    steps: int
    drawn: dict[str, GridCost]
    score: ScoreSamples | None
    stopped_by: Signals | None
    ended_early: str | None = None
    is_main: bool = True


def train(
    config: str | Path,
    overrides: Sequence[str] = (),
    *,
    resume: bool = False,
    plugins: Sequence[str] = (),
    callbacks: Sequence[L.Callback] = (),
    allow_change: Sequence[str] = (),
) -> Outcome:
    """Train the model that a config describes, as `diffexp train` does.

    Args:
        config: a YAML file, a run's directory, or the name of a ready config ("digits").
        overrides: ``key=value`` texts.
        resume: resume the run in the config's directory, or in run_dir, from its latest checkpoint.
        plugins: modules to import first.
        callbacks: further callbacks, which run after diffexp's.
        allow_change: keys ("optim.lr") or sections ("optim") that may change the result of the resumed run.

    Returns:
        The outcome; `Outcome.run.path` is the run directory.

    Raises:
        UserError: for an invalid config, unsuitable data or hardware, or a training that diverges.
        EnvironmentFailure: if the directory is in use, or no checkpoint can be saved.
    """
    load_plugins(plugins)
    experiment = located(load_experiment(str(config), overrides))
    if not resume:  # a run that continues no longer needs the weights that it started from
        check_experiment(experiment)
    with all_tasks() as ready:
        run = locate_run(experiment, find_config(str(config)), resume=resume, allowed=allow_change)
        return train_run(experiment, run, list(plugins), callbacks, allow_change, ready)


def train_run(
    experiment: Experiment,
    run: Run,
    plugins: list[str],
    callbacks: Sequence[L.Callback] = (),
    allowed: Collection[str] = (),
    ready: Callable[[], None] = lambda: None,
) -> Outcome:
    """Train in a run's directory, from its latest checkpoint if it has one, and lock the directory meanwhile.

    Args:
        experiment: the experiment to train.
        run: the run's directory, from `diffexp.commands.locate`.
        plugins: the modules named by --plugin, for the record.
        callbacks: further callbacks, which run after diffexp's.
        allowed: keys or sections that may change the result of a resumed run.
        ready: waits for the other processes, when this one can train.

    Raises:
        UserError: for data, hardware or a schedule that does not fit the config, before anything is written, or for a
            training that diverges.
        EnvironmentFailure: if the directory is in use, or no checkpoint can be saved.
    """
    quieten()
    try:
        with determinism_restored(), locked(run.path, "run_dir") if is_main_process() else nullcontext():
            return _train(experiment, run, plugins, callbacks, allowed, ready)
    except BaseException:
        run.discard_if_empty()
        raise
    finally:
        if is_main_process():
            os.environ.pop(RUN_VARIABLE, None)  # a later training of this process is another run


def _train(
    experiment: Experiment,
    run: Run,
    plugins: list[str],
    callbacks: Sequence[L.Callback],
    allowed: Collection[str],
    ready: Callable[[], None],
) -> Outcome:
    # everything that validates comes before anything is written
    check_loggers(experiment.loggers)
    precision = choose_precision(experiment, run)
    model = build_training_model(experiment)
    check_data_in_place(experiment, run)
    data = ImageDataModule.from_config(experiment.data, experiment.training.batch_size, experiment.seed)
    check_images(data.images("train"), model)
    stop = StopOnSignal()
    ema = EMA.from_config(experiment)
    grids = SampleGrid.from_config(experiment, run, data, ema, stop.is_asked)
    score = ScoreSamples.from_config(experiment, run, data, ema, stop.is_asked)
    validation = Validation.from_config(experiment, run, data, ema, stop.is_asked)
    fingerprint = data.images("train").brief_fingerprint()
    start = newest_checkpoint(experiment, run, fingerprint, allowed)
    if start is None:
        init_weights(model, experiment)

    if is_main_process():
        tidy(run, experiment.checkpoint.keep)
    steps, latest = experiment.training.max_steps, start.path if start is not None else None
    periodic = [each for each in (validation, grids, score) if each is not None]
    if start is not None and start.step == steps and all(each.finished(steps) for each in periodic):
        if is_main_process():
            complete_records(run, experiment, start)
        ready()
        return Outcome(run, steps, steps, {}, None, None, is_main=is_main_process())
    if is_main_process():
        _describe(experiment, run, plugins, precision, start)
        if start is None:
            set_metrics_aside(run)
        print_overview(experiment, run, data.images("train"), model, precision, start)

    step, checksum = (start.step, start.checksum) if start is not None else (0, None)
    loggers = build_loggers(experiment.loggers, run, step, experiment.wandb, as_dict(experiment), checksum)
    saver = StepCheckpoint.from_config(experiment, run, fingerprint, loggers)
    if validation is not None:
        for each in periodic:
            each.ends_early = validation.has_ended
    intervals = [each.every for each in periodic]
    parts = [  # in this order at the end of a step: average, save, then the slow ones
        TimeEstimate(),
        StepProgress(),
        *(imported(place)(**settings) for place, settings in experiment.model.callbacks().items()),
        ema,
        saver,
        validation,
        grids,
        score,
        BestCheckpoint.from_config(experiment, saver, [experiment.training.log_every_n_steps, *intervals]),
        stop,
        StatusFile.from_run(
            run, resumed=start is not None, ended_early=lambda: None if validation is None else validation.reason
        ),
        *callbacks,
    ]
    trainer = build_trainer(experiment, run, precision, loggers, saver, parts)
    ready()
    fit(trainer, model, data, latest, run, experiment.training.batch_size)

    step = trainer.global_step
    ended_early = validation.reason if validation is not None and step < steps else None
    complete = (step >= steps or ended_early is not None) and all(each.finished(step) for each in periodic)
    stopped_by = None if complete else stop.received
    finish_loggers(trainer.loggers, stopped_by)
    drawn = grids.drawn if grids is not None else {}
    return Outcome(run, step, steps, drawn, score, stopped_by, ended_early, is_main=trainer.is_global_zero)


def _describe(experiment: Experiment, run: Run, plugins: list[str], precision: str, start: ResumePoint | None) -> None:
    """Create the run's directory."""
    started = {"precision": precision, "saved": start is not None, "changes": start.changes if start else []}
    run.describe(config_text(experiment), {**describe_environment(plugins), **started})
    os.environ[RUN_VARIABLE] = str(run.path)
