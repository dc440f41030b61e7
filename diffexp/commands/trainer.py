"""Build the Trainer of an experiment, and fit."""

import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import lightning as L
from lightning.pytorch.loggers import Logger

from diffexp.callbacks.checkpoint import AtomicCheckpointIO, StepCheckpoint
from diffexp.callbacks.time_estimate import TimeEstimate
from diffexp.checkpoints.paths import list_checkpoints
from diffexp.config.schemas.common import Precision
from diffexp.config.schemas.experiment import Experiment
from diffexp.data.datamodule import ImageDataModule
from diffexp.errors import EnvironmentFailure, UserError
from diffexp.loggers.build import finish_loggers
from diffexp.models.base import GenerativeModel
from diffexp.models.nonfinite import DivergedError
from diffexp.runs.directory import Run
from diffexp.system.devices import (
    check_devices,
    determinism_restored,
    device_for,
    out_of_memory_explained,
    precision_for,
)
from diffexp.system.reading import ReadFailure
from diffexp.system.srun import check_tasks, cluster_plugins


def quieten() -> None:
    """Silence Lightning's device lines, advertisements and advice that does not apply to an endless stream."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for category in (UserWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category, module="lightning")


def choose_precision(experiment: Experiment, run: Run) -> str:
    """Choose the precision of a training; with auto, a resumed run keeps its own, even on another kind of machine.

    Raises:
        UserError: if the config's devices are missing, or the run's recorded precision is invalid.
    """
    settings = experiment.training
    device = device_for(settings.accelerator)
    check_devices(device, settings.devices)
    check_tasks(settings.devices, settings.num_nodes)
    recorded = run.read_environment().get("precision") if settings.precision == "auto" else None
    precision = str(recorded or precision_for(settings.precision, device))
    if precision not in get_args(Precision):
        raise UserError(
            f"{run.environment}: precision: expected one of {', '.join(get_args(Precision))}, got {precision!r}. "
            "Restore the file."
        )
    return precision


def build_trainer(
    experiment: Experiment,
    run: Run,
    precision: str,
    loggers: Sequence[Logger],
    saver: StepCheckpoint,
    callbacks: Sequence[L.Callback | None],
) -> L.Trainer:
    """Build the Trainer of an experiment.

    Args:
        experiment: the experiment; its `training` section configures the Trainer.
        run: the run's directory.
        precision: one of Lightning's precisions.
        loggers: the run's loggers.
        saver: the callback that saves checkpoints.
        callbacks: all callbacks, in the order in which they run at the end of a step; None is skipped.
    """
    return L.Trainer(
        **_settings(experiment, precision),
        devices=experiment.training.devices,
        num_nodes=experiment.training.num_nodes,
        logger=list(loggers),
        callbacks=[callback for callback in callbacks if callback is not None],
        plugins=[AtomicCheckpointIO(saver.failed), *cluster_plugins()],
        default_root_dir=run.path,
    )


def seconds_a_step(
    experiment: Experiment, precision: str, model: GenerativeModel, data: ImageDataModule
) -> float | None:
    """Train some steps on one device and return the median time of a step; None if the training has too few.

    Nothing is written, and the weights of `model` are not those of a training afterwards.
    """
    quieten()
    estimate = TimeEstimate(only=True)
    trainer = L.Trainer(
        **_settings(experiment, precision), devices=1, logger=False, callbacks=[estimate], enable_progress_bar=False
    )
    with determinism_restored():
        trainer.fit(model, datamodule=data)
    return estimate.seconds


def _settings(experiment: Experiment, precision: str) -> dict[str, Any]:
    """Return the arguments of a Trainer that say how a step is computed, and which parts of Lightning are off."""
    settings = experiment.training
    return {
        "max_steps": settings.max_steps,
        "max_epochs": -1,
        "accelerator": device_for(settings.accelerator).type,
        "precision": precision,
        "deterministic": settings.deterministic or None,  # None keeps the caller's setting
        "accumulate_grad_batches": settings.accumulate_grad_batches,
        "gradient_clip_val": settings.gradient_clip_val,
        "log_every_n_steps": settings.log_every_n_steps,
        "enable_checkpointing": False,  # of Lightning; `StepCheckpoint` replaces it
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }


def fit(
    trainer: L.Trainer, model: GenerativeModel, data: ImageDataModule, latest: Path | None, run: Run, batch_size: int
) -> None:
    """Train, from a checkpoint if there is one.

    Args:
        trainer: the Trainer.
        model: the model to train.
        data: the training images.
        latest: the checkpoint to resume from, or None.
        run: the run's directory.
        batch_size: images per optimiser step.

    Raises:
        UserError: if a GPU's memory does not suffice, or training diverges.
        EnvironmentFailure: if checkpoints cannot be saved, or images not be read.
    """
    model.class_names = data.images("train").class_names
    parts = trainer.num_devices * trainer.num_nodes * trainer.accumulate_grad_batches
    twice = 2 * trainer.accumulate_grad_batches
    smaller = f"Set training.accumulate_grad_batches={twice}, which computes the same step in smaller parts."
    try:
        with out_of_memory_explained("training.batch_size", batch_size // parts, smaller):
            trainer.fit(model, datamodule=data, ckpt_path=latest, weights_only=True)
    except SystemExit as ended:
        if ended.code == 1:  # Lightning exits like this after a second Ctrl-C
            raise KeyboardInterrupt from None
        raise
    except Exception as error:
        finish_loggers(trainer.loggers, failed=True)
        if isinstance(error, ReadFailure) or not isinstance(error, (DivergedError, EnvironmentFailure)):
            raise
        if not trainer.is_global_zero:  # both errors occur on every rank
            sys.exit(0)  # rank 0 reports; Lightning would kill it if this process exited with another code
        if isinstance(error, EnvironmentFailure):
            raise
        saved = list_checkpoints(run.checkpoints)
        safe = f"The last good checkpoint is {saved[-1]}." if saved else "No checkpoint was saved before."
        raise DivergedError(f"{str(error).rstrip('.')}. {safe}") from error
