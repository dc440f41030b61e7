"""Builds everything from a config and fits: the only place where the parts meet."""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any, get_args

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor

from diffexp.callbacks.checkpoints import Checkpoints, WholeFileCheckpointIO
from diffexp.callbacks.ema import EMA
from diffexp.callbacks.progress import StepProgress
from diffexp.callbacks.sample_grid import Drawn, SampleGrid
from diffexp.callbacks.score import Score
from diffexp.callbacks.status import StatusFile
from diffexp.callbacks.stop import StopOnSignal
from diffexp.checkpoint_files import prune
from diffexp.config.experiment import Experiment
from diffexp.config.merging import as_dict
from diffexp.config.registry import imported
from diffexp.config.words import Precision
from diffexp.data.datamodule import ImageDataModule
from diffexp.data.images import ImageSet
from diffexp.environment import describe_environment
from diffexp.errors import OutsideError, UserError
from diffexp.evaluation.extractors import build_extractor
from diffexp.evaluation.extractors.base import Extractor, check_count
from diffexp.evaluation.references import Reference, check_reference, reference
from diffexp.files import remove_asides
from diffexp.hardware import (
    check_devices,
    check_tasks,
    cluster_plugins,
    determinism_restored,
    device_for,
    is_main_process,
    out_of_memory_explained,
    precision_for,
)
from diffexp.locks import locked
from diffexp.loggers import MetricsFile, build_loggers, repair_metrics
from diffexp.mirrors import finish
from diffexp.models.base import GenerativeModel
from diffexp.models.building import build_model
from diffexp.models.finite import DivergedError
from diffexp.resuming import ResumePoint, newest_checkpoint
from diffexp.runs import RUN_VARIABLE, Run, checkpoints, config_text
from diffexp.tolerance import Tolerance, reason
from diffexp.trained import check_same_function, start_from

log = logging.getLogger(__name__)

_REAL_IMAGES = 8  # in the row above each grid


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        run: its directory.
        step: optimiser steps done, of `steps`.
        drawn: by sampler, what the last grid cost.
        score: the callback that has scored, or None.
        stopped_by: the signal that ended it before the last step, or None.
        is_main: whether this is the process that reports, the first of all.
    """

    run: Run
    step: int
    steps: int
    drawn: dict[str, Drawn]
    score: Score | None
    stopped_by: Signals | None
    is_main: bool = True


def train(experiment: Experiment, run: Run, plugins: list[str], callbacks: Sequence[L.Callback] = ()) -> Outcome:
    """Train in a run's directory, from its newest checkpoint if it has one. No other process can meanwhile.

    Args:
        experiment: what to train.
        run: where: from `diffexp.starting`.
        plugins: the modules named by --plugin, for the record.
        callbacks: further ones, that act after ours.

    Raises:
        UserError: for data, hardware or a schedule that do not fit the config; nothing is written then. Also for a
            training that diverges.
        OutsideError: if the directory is in use, or no checkpoint can be saved any more.
    """
    quieten()
    try:
        with determinism_restored(), locked(run.path, "run_dir") if is_main_process() else nullcontext():
            return _train(experiment, run, plugins, callbacks)
    except BaseException:
        run.discard_if_empty()
        raise
    finally:
        if is_main_process():
            os.environ.pop(RUN_VARIABLE, None)  # what this process starts later is another run


def _train(experiment: Experiment, run: Run, plugins: list[str], callbacks: Sequence[L.Callback]) -> Outcome:
    settings = experiment.training
    device = device_for(settings.accelerator)
    check_devices(device, settings.devices)
    check_tasks(settings.devices, settings.nodes)
    # a resumed run goes on as it began, also on another kind of machine
    precision = run.read_environment().get("precision") or precision_for(settings.precision, device)
    if precision not in get_args(Precision):
        raise UserError(f"{run.environment}: precision: {precision!r} is none of {', '.join(get_args(Precision))}")
    model = build_model(experiment)
    if settings.compile:
        model.compile_network(training=True)
    if settings.cuda_graphs:
        model.use_cuda_graphs()
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)
    data = ImageDataModule.from_config(experiment.data, settings.batch_size, experiment.seed)
    real = _real_images(data, model)
    extractor = _extractor(experiment, model, data)
    fingerprint = data.images("train").brief_fingerprint()
    start = newest_checkpoint(experiment, run, fingerprint)
    newest, step = (start.path, start.step) if start is not None else (None, 0)
    if newest is None:
        _take_trained(model, experiment)
    stop = StopOnSignal()
    ema = _ema(experiment)
    grids = _grids(experiment, run, real, ema, stop)
    score = _score(experiment, run, data, extractor, ema, stop)
    periodic = [each for each in (grids, score) if each is not None]
    if is_main_process():
        _tidy(run, experiment.checkpoint.keep)
    if start is not None and step == settings.steps and all(each.finished(step) for each in periodic):
        if is_main_process():
            _complete(run, experiment, start)
        return Outcome(run, step, settings.steps, {}, None, None)
    if is_main_process():
        run.describe(config_text(experiment), {**describe_environment(plugins), "precision": precision})
        begun = "from the start" if newest is None else f"on from {newest}"
        with suppress(OSError):
            print(f"{run.path}: {begun}, on {settings.devices * settings.nodes} × {device.type}", file=sys.stderr)
        os.environ[RUN_VARIABLE] = str(run.path)

    seal = start.seal if start is not None else None
    loggers = build_loggers(experiment.loggers, run, step, experiment.wandb, as_dict(experiment), seal)
    saver = _saver(experiment, run, fingerprint, loggers)
    in_order = [
        StepProgress(),
        *(imported(place)(**settings) for place, settings in experiment.model.callbacks().items()),
        ema,
        saver,
        grids,
        score,
        stop,
        StatusFile(run.write_status, _seconds_before(run, newest)),
    ]
    trainer = L.Trainer(
        max_steps=settings.steps,
        max_epochs=-1,
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.nodes,
        precision=precision,  # type: ignore[arg-type]  # one of Lightning's literals
        deterministic=settings.deterministic or None,  # None leaves what a caller of ours has set
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.gradient_clip,
        log_every_n_steps=settings.log_every,
        logger=loggers,
        # they act in this order at the end of a step: average, save, and only then what takes long
        callbacks=[*(callback for callback in in_order if callback is not None), *callbacks],
        plugins=[WholeFileCheckpointIO(saver.failed), *cluster_plugins()],
        default_root_dir=run.path,
        enable_checkpointing=False,  # Lightning's own; ours is among the callbacks
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    images = settings.batch_size // (settings.devices * settings.nodes * settings.accumulate)
    smaller = f"Set training.accumulate={2 * settings.accumulate}, which computes the same step in smaller parts."
    with out_of_memory_explained("training.batch_size", images, smaller):
        _fit(trainer, model, data, newest, run)
    step = trainer.global_step
    complete = step >= settings.steps and all(each.finished(step) for each in periodic)
    stopped_by = None if complete else stop.received
    finish(trainer.loggers, stopped_by)
    return Outcome(
        run,
        step,
        settings.steps,
        drawn=grids.drawn if grids is not None else {},
        score=score,
        stopped_by=stopped_by,
        is_main=trainer.is_global_zero,
    )


def _tidy(run: Run, keep: int | None) -> None:
    """Remove what a killed process had no time to: half-written files, and checkpoints that are no longer kept."""
    for folder in (run.path, run.checkpoints, run.samples, run.scores):
        remove_asides(folder)
    with Tolerance(f"{run.checkpoints}: old checkpoints cannot be removed"):
        prune(run.checkpoints, keep)


def _complete(run: Run, experiment: Experiment, start: ResumePoint) -> None:
    """Finish the records of a run that a kill ended after its last step."""
    try:
        repair_metrics(experiment.loggers, run, start.step, start.seal)
        status = run.read_status()
        if (status.get("state"), status.get("step")) != ("finished", start.step):
            run.write_status("finished", start.step, start.step, seconds=_seconds_before(run, start.path))
    except OSError as error:
        log.warning("%s: the run is complete, but its records cannot be written: %s", run.path, reason(error))


def _take_trained(model: GenerativeModel, experiment: Experiment) -> None:
    """Give a new run's model the weights, and the trained parts, that its config names."""
    for part, path in experiment.model.trained_parts().items():
        start_from(getattr(model, part), Path(path), f"model.{part}")
    if experiment.init is not None:
        check_same_function(start_from(model, Path(experiment.init), "init"), experiment)


def _fit(trainer: L.Trainer, model: GenerativeModel, data: ImageDataModule, newest: Path | None, run: Run) -> None:
    """Train; an error says what is safe."""
    try:
        trainer.fit(model, datamodule=data, ckpt_path=newest, weights_only=True)
    except SystemExit as ended:
        if ended.code == 1:  # how Lightning ends after a second Ctrl-C
            raise KeyboardInterrupt from None
        raise
    except (DivergedError, OutsideError) as error:  # agreed upon by all processes
        finish(trainer.loggers, failed=True)
        if not trainer.is_global_zero:
            sys.exit(0)  # what is wrong is the first one's to say; Lightning would kill it for another exit code
        if isinstance(error, OutsideError):
            raise
        saved = checkpoints(run.checkpoints)
        safe = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint was saved before"
        raise DivergedError(f"{error}; {safe}") from error


def _seconds_before(run: Run, newest: Path | None) -> float:
    """That the run has been trained for, if it goes on from a checkpoint."""
    seconds = run.read_status().get("seconds", 0.0) if newest is not None else 0.0
    return seconds if isinstance(seconds, (int, float)) else 0.0


def _saver(experiment: Experiment, run: Run, fingerprint: str, loggers: Sequence[Logger]) -> Checkpoints:
    config = config_text(experiment)

    def extra() -> dict[str, Any]:
        seals = [logger.seal().as_dict() for logger in loggers if isinstance(logger, MetricsFile)]
        metrics = {"metrics": seals[0]} if seals else {}  # only the main process, which writes, has loggers
        return {"config": config, "data": fingerprint, "run_id": run.id(), **metrics}

    return Checkpoints(run.checkpoints, experiment.checkpoint.every, experiment.checkpoint.keep, extra)


def _real_images(data: ImageDataModule, model: GenerativeModel) -> Tensor:
    """A few training images from all over the set, uint8 (N, C, H, W), for the row above each grid.

    Raises:
        UserError: if the images have another shape, or other classes, than the model was built for.
    """
    images = data.images("train")
    if images.image_shape != model.image_shape:
        raise UserError(f"data: the images are {images.image_shape}, but the config says {model.image_shape}")
    there = None if images.class_names is None else len(images.class_names)
    if model.classes is not None and model.classes != there:
        told = "has no labels" if there is None else f"has {there} classes"
        raise UserError(f"model.classes: is {model.classes}, but the data {told}")
    count = min(_REAL_IMAGES, len(images))
    return images.fetch(torch.arange(count) * len(images) // count)


def _extractor(experiment: Experiment, model: GenerativeModel, data: ImageDataModule) -> Extractor | None:
    """The extractor of the scores while training, if all that they need is there: a lack must not show hours later."""
    wanted = experiment.score
    if wanted is None:
        return None
    extractor = build_extractor(wanted.extractor, model.image_shape)
    check_count(wanted.count, extractor, "score.count")
    check_reference(wanted.reference, lambda: data.images(wanted.reference.split), extractor)
    return extractor


def _ema(experiment: Experiment) -> EMA | None:
    wanted = experiment.ema
    return None if wanted is None else EMA(wanted.half_life, experiment.training.batch_size, wanted.rampup)


def _grids(experiment: Experiment, run: Run, real: Tensor, ema: EMA | None, stop: StopOnSignal) -> SampleGrid | None:
    wanted = experiment.sample_grid
    if wanted is None:
        return None
    return SampleGrid(
        run.samples,
        {name: sampler for name, sampler in wanted.samplers.items() if sampler is not None},
        wanted.every,
        wanted.count,
        wanted.seed,
        ema if wanted.weights == "ema" else None,
        real,
        give_up=lambda: stop.received is not None,
    )


def _score(
    experiment: Experiment,
    run: Run,
    data: ImageDataModule,
    extractor: Extractor | None,
    ema: EMA | None,
    stop: StopOnSignal,
) -> Score | None:
    wanted = experiment.score
    if wanted is None or extractor is None:
        return None

    def make_reference(extractor: Extractor) -> Reference:
        def images() -> ImageSet:
            return data.images(wanted.reference.split)

        return reference(experiment.data, images, wanted.reference, extractor, wanted.batch_size)

    return Score(
        run.scores,
        extractor,
        make_reference,
        {name: sampler for name, sampler in wanted.samplers.items() if sampler is not None},
        wanted.every,
        wanted.count,
        wanted.seed,
        wanted.batch_size,
        ema if wanted.weights == "ema" else None,
        wanted.limit_seconds,
        wanted.limit_share,
        give_up=lambda: stop.received is not None,
    )


def quieten() -> None:
    """Silence Lightning's device lines, advertisements and advice that does not apply to an endless stream."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for category in (UserWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category, module="lightning")
