"""Builds everything from a config and fits: the only place where the parts meet."""

import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

import lightning as L
import torch
from torch import Tensor

from diffexp.callbacks.checkpoints import Checkpoints, WholeFileCheckpointIO, checkpoints, step_of
from diffexp.callbacks.ema import EMA
from diffexp.callbacks.progress import StepProgress
from diffexp.callbacks.sample_grid import Drawn, SampleGrid
from diffexp.callbacks.status import StatusFile
from diffexp.callbacks.stop import StopOnSignal
from diffexp.config import load_experiment
from diffexp.config.experiment import Experiment
from diffexp.config.merging import as_dict, differing
from diffexp.config.models import MODELS
from diffexp.data.datamodule import ImageDataModule
from diffexp.environment import describe_environment
from diffexp.errors import UserError
from diffexp.files import write_text
from diffexp.hardware import check_devices, device_for, is_main_process, precision_for
from diffexp.loggers import build_loggers
from diffexp.models.base import GenerativeModel
from diffexp.runs import Run, config_text, new_run

# A launcher starts a node's other processes with this command line again; they find the run's directory here.
_RUN_VARIABLE = "DIFFEXP_RUN_DIR"

# What may differ when a run is continued: how long, and what is recorded; not what is computed.
_CHANGEABLE = ("training.steps", "checkpoint.", "sample_grid", "loggers", "wandb.", "runs_dir")

_REAL_IMAGES = 8  # in the row above each grid


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        run: its directory.
        step: optimiser steps done, of `steps`.
        drawn: by sampler, what the last grid cost.
        stopped_by: the signal that ended it before the last step, or None.
        is_main: whether this is the process that reports, the first of all.
    """

    run: Run
    step: int
    steps: int
    drawn: dict[str, Drawn]
    stopped_by: Signals | None
    is_main: bool = True


def train(experiment: Experiment, run: Run, plugins: list[str]) -> Outcome:
    """Train in a run's directory, from its newest checkpoint if it has one.

    Args:
        experiment: what to train.
        run: where: from `start_run` or `resume_run`.
        plugins: the modules named by --plugin, for the record.

    Raises:
        UserError: for data, hardware or a schedule that do not fit the config; nothing is written then.
    """
    settings = experiment.training
    try:
        device = device_for(settings.accelerator)
        check_devices(device, settings.devices)
        precision = precision_for(settings.precision, device)
        model = build_model(experiment)
        data = ImageDataModule.from_config(experiment.data, settings.batch_size, experiment.seed)
        images = data.images("train")
        real = images.fetch(torch.arange(min(_REAL_IMAGES, len(images))))
    except BaseException:
        run.discard_if_empty()
        raise
    done = checkpoints(run.checkpoints)
    step = step_of(done[-1]) if done else 0
    if step >= settings.steps:
        return Outcome(run, step, settings.steps, {}, None)
    if is_main_process():
        _record(run, experiment, {**describe_environment(plugins), "precision": precision})
        os.environ[_RUN_VARIABLE] = str(run.path)

    callbacks, grids, stop = _callbacks(experiment, run, real)
    _quieten()
    trainer = L.Trainer(
        max_steps=settings.steps,
        max_epochs=-1,
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.nodes,
        precision=precision,  # type: ignore[arg-type]  # one of Lightning's literals
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.gradient_clip,
        log_every_n_steps=settings.log_every,
        logger=build_loggers(experiment, run, resume_step=step),
        callbacks=callbacks,
        plugins=[WholeFileCheckpointIO()],
        default_root_dir=run.path,
        enable_checkpointing=False,  # Lightning's own; ours is among the callbacks
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(model, datamodule=data, ckpt_path=done[-1] if done else None, weights_only=True)
    step = trainer.global_step
    return Outcome(
        run,
        step,
        settings.steps,
        drawn=grids.drawn if grids is not None else {},
        stopped_by=stop.received if step < settings.steps else None,
        is_main=trainer.is_global_zero,
    )


def build_model(experiment: Experiment) -> GenerativeModel:
    """The untrained model of an experiment, its weights drawn from the seed.

    Raises:
        UserError: for a schedule that is invalid at its T.
    """
    data = experiment.data
    shape = (data.channels, data.image_size, data.image_size)
    model = MODELS.build(experiment.model, shape, experiment.optim, experiment.seed)
    assert isinstance(model, GenerativeModel)
    return model


def start_run(experiment: Experiment) -> Run:
    """The directory of a new run; in processes that a launcher started, that of the first process.

    Raises:
        UserError: if it holds a run already, or several processes cannot agree on one.
    """
    if _RUN_VARIABLE in os.environ and not is_main_process():
        return Run(Path(os.environ[_RUN_VARIABLE]))
    if int(os.environ.get("SLURM_NTASKS", os.environ.get("WORLD_SIZE", "1"))) > 1:
        if experiment.run_dir is None:
            raise UserError("run_dir: must be given when several processes are started together")
        if not is_main_process():
            return Run(Path(experiment.run_dir))
    return new_run(experiment)


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
    before = as_dict(load_experiment(str(run.config)))
    changed = [
        f"  {key}: {old} in the run, {new} now"
        for key, old, new in differing(before, as_dict(experiment))
        if key != "run_dir" and not key.startswith(_CHANGEABLE)
    ]
    if changed:
        raise UserError(f"--resume: {path} computes something else:\n" + "\n".join(changed))
    return run


def _record(run: Run, experiment: Experiment, environment: dict[str, Any]) -> None:
    if run.exists():
        write_text(run.config, config_text(experiment))
    else:
        run.create(experiment, environment)


def _callbacks(
    experiment: Experiment, run: Run, real: Tensor
) -> tuple[list[L.Callback], SampleGrid | None, StopOnSignal]:
    """In the order in which they act at the end of a step: what changes state comes before what saves it."""
    callbacks: list[L.Callback] = [StepProgress()]
    ema = None
    if experiment.ema is not None:
        ema = EMA(experiment.ema.half_life, experiment.training.batch_size, experiment.ema.rampup)
        callbacks.append(ema)
    stop = StopOnSignal()
    grids = None
    wanted = experiment.sample_grid
    if wanted is not None:
        grids = SampleGrid(
            run.samples,
            {name: sampler for name, sampler in wanted.samplers.items() if sampler is not None},
            wanted.every,
            wanted.count,
            wanted.seed,
            ema if wanted.weights == "ema" else None,
            real,
            give_up=lambda: stop.received is not None,
        )
        callbacks.append(grids)
    callbacks.append(stop)
    checkpoint = experiment.checkpoint
    saved = {"config": config_text(experiment)}
    callbacks.append(Checkpoints(run.checkpoints, checkpoint.every, checkpoint.keep, saved))
    callbacks.append(StatusFile(run.write_status))
    return callbacks, grids, stop


def _quieten() -> None:
    """Silence Lightning's device lines, advertisements and advice that does not apply to an endless stream."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for category in (UserWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category, module="lightning")
