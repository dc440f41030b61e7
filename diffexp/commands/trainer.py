"""The Trainer of an experiment, and its fit."""

import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import lightning as L
from lightning.pytorch.loggers import Logger

from diffexp.callbacks.checkpoint import AtomicCheckpointIO, StepCheckpoint
from diffexp.checkpoints.paths import list_checkpoints
from diffexp.config.schemas.common import Precision
from diffexp.config.schemas.experiment import Experiment
from diffexp.data.datamodule import ImageDataModule
from diffexp.errors import EnvironmentFailure, UserError
from diffexp.loggers.build import finish_loggers
from diffexp.models.base import GenerativeModel
from diffexp.models.nonfinite import DivergedError
from diffexp.runs.directory import Run
from diffexp.system.devices import check_devices, device_for, out_of_memory_explained, precision_for
from diffexp.system.distributed import check_tasks, cluster_plugins


def quieten() -> None:
    """Silence Lightning's device lines, advertisements and advice that does not apply to an endless stream."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for category in (UserWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category, module="lightning")


def choose_precision(experiment: Experiment, run: Run) -> str:
    """The precision of a training; a resumed run keeps the one that it began with, also on another kind of machine.

    Raises:
        UserError: if there are not the devices that the config says, or the run's own record is wrong.
    """
    settings = experiment.training
    device = device_for(settings.accelerator)
    check_devices(device, settings.devices)
    check_tasks(settings.devices, settings.num_nodes)
    precision = str(run.read_environment().get("precision") or precision_for(settings.precision, device))
    if precision not in get_args(Precision):
        raise UserError(f"{run.environment}: precision: {precision!r} is none of {', '.join(get_args(Precision))}")
    return precision


def build_trainer(
    experiment: Experiment,
    run: Run,
    precision: str,
    loggers: Sequence[Logger],
    saver: StepCheckpoint,
    callbacks: Sequence[L.Callback | None],
) -> L.Trainer:
    """The Trainer of an experiment.

    Args:
        experiment: its `training` section.
        run: its directory.
        precision: one of Lightning's.
        loggers: of the run.
        saver: that of the callbacks which saves checkpoints.
        callbacks: all of them, in the order in which they act at the end of a step; None is left out.
    """
    settings = experiment.training
    return L.Trainer(
        max_steps=settings.max_steps,
        max_epochs=-1,
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        precision=precision,  # type: ignore[arg-type]  # one of Lightning's literals
        deterministic=settings.deterministic or None,  # None leaves what a caller of ours has set
        accumulate_grad_batches=settings.accumulate_grad_batches,
        gradient_clip_val=settings.gradient_clip_val,
        log_every_n_steps=settings.log_every_n_steps,
        logger=list(loggers),
        callbacks=[callback for callback in callbacks if callback is not None],
        plugins=[AtomicCheckpointIO(saver.failed), *cluster_plugins()],
        default_root_dir=run.path,
        enable_checkpointing=False,  # Lightning's own; ours is among the callbacks
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def fit(
    trainer: L.Trainer, model: GenerativeModel, data: ImageDataModule, newest: Path | None, run: Run, batch_size: int
) -> None:
    """Train, from a checkpoint if there is one.

    Args:
        trainer: the Trainer.
        model: to train.
        data: to train on.
        newest: the checkpoint to resume from.
        run: the run's directory.
        batch_size: images per optimiser step.

    Raises:
        UserError: if a GPU's memory does not suffice, or training diverges.
        EnvironmentFailure: if checkpoints cannot be saved.
    """
    parts = trainer.num_devices * trainer.num_nodes * trainer.accumulate_grad_batches
    twice = 2 * trainer.accumulate_grad_batches
    smaller = f"Set training.accumulate_grad_batches={twice}, which computes the same step in smaller parts."
    try:
        with out_of_memory_explained("training.batch_size", batch_size // parts, smaller):
            trainer.fit(model, datamodule=data, ckpt_path=newest, weights_only=True)
    except SystemExit as ended:
        if ended.code == 1:  # how Lightning ends after a second Ctrl-C
            raise KeyboardInterrupt from None
        raise
    except Exception as error:
        finish_loggers(trainer.loggers, failed=True)
        if not isinstance(error, (DivergedError, EnvironmentFailure)):
            raise
        if not trainer.is_global_zero:  # all processes agree upon these two
            sys.exit(0)  # what is wrong is the first one's to say; Lightning would kill it for another exit code
        if isinstance(error, EnvironmentFailure):
            raise
        saved = list_checkpoints(run.checkpoints)
        safe = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint was saved before"
        raise DivergedError(f"{error}; {safe}") from error
