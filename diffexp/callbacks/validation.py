"""Measure the loss on held-out images during training, which shows overfitting and chooses checkpoints."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Self

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffexp.callbacks.ema import EMA
from diffexp.callbacks.level_map import level_map
from diffexp.callbacks.periodic import Periodic, StoppedError
from diffexp.callbacks.validation_images import ValidationImages, images_of_split
from diffexp.config.schemas.experiment import Experiment
from diffexp.config.schemas.logged import level_name
from diffexp.data.datamodule import ImageDataModule
from diffexp.loggers.build import log_images
from diffexp.models.base import GenerativeModel, HeldOutLoss
from diffexp.runs.directory import Run
from diffexp.runs.validation_trend import best, comparable, described, exhausted, overfits
from diffexp.runs.validations import RecordedValidation, read_validations, validation_file, write_validation
from diffexp.system import distributed
from diffexp.system.best_effort import BestEffort
from diffexp.system.devices import out_of_memory_explained
from diffexp.system.files import require_folder
from diffexp.system.terminal import progress_bar, say

log = logging.getLogger(__name__)

_VERSION = 1  # of the estimates, with their levels: losses of different versions are not comparable


class Validation(Periodic):
    """Measures the loss on held-out images every `every` steps and at the end; see `GenerativeModel.held_out_loss`.

    The averaged and the raw weights are measured on the held-out images, and the averaged weights (the raw ones without
    an average) on training images. Every validation uses the same noise, so that steps can be compared image by image.
    The network runs in the precision of training. The random numbers of training are not affected.

    Each validation is written to ``step-00001000.npz``, see `diffexp.runs.validations`, printed with its change since
    the previous one, and logged as ``val/bits_per_dim``, with its standard error ``…_error``, the lowest so far
    ``…_best``, that of the ``…_raw`` weights and of ``…_train``, and for a denoising model the error at each level of
    noise, also as a heat map. diffexp warns once if the loss has risen for long while that on training images falls.

    Args:
        folder: the folder for the files.
        held_out: the held-out images.
        train: training images.
        every: optimiser steps between two validations.
        calls: network calls of one batch.
        seed: seed of the noise.
        split: the split of the held-out images, for the protocol.
        batch_size: images of one batch in each process.
        ema: the callback whose averaged weights are measured, too, or None.
        levels: the model's levels of log SNR.
        patience: training ends after so many successive validations without a new best; None never ends it.
        should_stop: called after every network call; True interrupts the validation, because the run is stopping.

    Attributes:
        reason: why training ended early, or None.
    """

    def __init__(
        self,
        folder: str | Path,
        held_out: ValidationImages,
        train: ValidationImages,
        every: int,
        calls: int,
        seed: int = 0,
        split: str = "test",
        batch_size: int = 256,
        ema: EMA | None = None,
        levels: Sequence[int] = (),
        patience: int | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(every, should_stop)
        self.folder = Path(folder)
        self.held_out = held_out
        self.train = train
        self.calls = calls
        self.seed = seed
        self.batch_size = batch_size
        self.ema = ema
        self.levels = levels
        self.patience = patience
        self.reason: str | None = None
        self.details: dict[str, Any] = {
            "version": _VERSION,
            "split": split,
            "count": len(held_out.images),
            "seed": seed,
            "images": held_out.digest(),
        }
        self._earlier: list[RecordedValidation] | None = None
        self._logging = BestEffort("the errors by noise level cannot be logged", Exception)
        self._writing = BestEffort(f"the held-out loss cannot be written to {folder}")

    @classmethod
    def from_config(
        cls, experiment: Experiment, run: Run, data: ImageDataModule, ema: EMA | None, should_stop: Callable[[], bool]
    ) -> Self | None:
        """Build the callback of a config, or return None if it has no validation.

        Raises:
            UserError: if the split has no images, or no labels that the model needs.
        """
        wanted, settings, model = experiment.validation, experiment.training, experiment.model
        if wanted is None:
            return None
        assert model.held_out_calls is not None
        labelled = getattr(model, "classes", None) is not None
        parts = settings.devices * settings.num_nodes * settings.accumulate_grad_batches
        return cls(
            run.validation,
            ValidationImages.of(images_of_split(data, wanted.split, labelled=labelled), wanted.count),
            ValidationImages.of(data.images("train"), wanted.count),
            wanted.interval(
                settings.max_steps, settings.batch_size, model.held_out_calls, ema=experiment.ema is not None
            ),
            model.held_out_calls,
            wanted.seed,
            wanted.split,
            wanted.batch_size or settings.batch_size // parts,
            ema,
            model.held_out_levels,
            wanted.patience,
            should_stop,
        )

    @property
    def protocol(self) -> str:
        """The id of images and noise: eight hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.details, sort_keys=True).encode()).hexdigest()[:8]

    def has_ended(self) -> bool:
        """Whether training ends early, because the loss has not improved for long."""
        return self.reason is not None

    def finished(self, step: int) -> bool:
        """Return whether the losses of a step are recorded."""
        return validation_file(self.folder, step).is_file()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Repeat an interrupted validation, and end a run that is resumed after it had ended early."""
        super().on_train_start(trainer, pl_module)
        earlier = self._history(trainer)
        is_recorded = bool(earlier) and earlier[-1].step == trainer.global_step
        self._end_if_exhausted(trainer, comparable(earlier, earlier[-1]) if is_recorded else [])

    # --- measuring

    def act(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the losses. Every process must call it; each measures its share."""
        assert isinstance(pl_module, GenerativeModel)
        try:
            found = self._measure(trainer, pl_module)
        except StoppedError:
            return
        earlier = [each for each in self._history(trainer) if each.step < found.step]
        known = comparable(earlier, found)
        self._publish(trainer, known)
        self._earlier = [*earlier, found]
        with self._writing:
            if trainer.is_global_zero:
                require_folder(self.folder.parent)
                for logger in trainer.loggers:
                    logger.save()
                # last, because this file marks the losses as complete and logged
                write_validation(found, validation_file(self.folder, found.step))
        self._end_if_exhausted(trainer, known)

    def _measure(self, trainer: L.Trainer, model: GenerativeModel) -> RecordedValidation:
        averaged = self.ema.applied if self.ema is not None else _as_is
        sets = {"ema": (self.held_out, averaged)} if self.ema is not None else {}
        sets |= {"raw": (self.held_out, _as_is), "train": (self.train, averaged)}
        batches = sum(-(-len(distributed.share(len(of.images))) // self.batch_size) for of, _ in sets.values())
        losses: dict[str, HeldOutLoss] = {}
        with (
            out_of_memory_explained("validation.batch_size", self.batch_size, "Set a smaller validation.batch_size."),
            progress_bar(
                "validate", batches * self.calls, "call", leave=False, delay=1, disable=not trainer.is_global_zero
            ) as bar,
            trainer.precision_plugin.forward_context(),
        ):
            after_call = self.watch(trainer, bar.update)
            for name, (images, weights) in sets.items():
                with weights(model):
                    losses[name] = self._loss(model, images, after_call)
        return RecordedValidation(
            trainer.global_step,
            self.protocol,
            {name: _numbers(loss.bits_per_dim) for name, loss in losses.items()},
            {name: _numbers(loss.errors) for name, loss in losses.items() if loss.errors is not None},
            np.array(self.levels, np.float32),
            self.held_out.indices.numpy(),
            self.train.indices.numpy(),
            self.details,
        )

    def _loss(self, model: GenerativeModel, given: ValidationImages, on_call: Callable[[], None]) -> HeldOutLoss:
        """Return the losses of all images, float32, the same on every process."""
        device, count = model.device, len(given.images)
        bits = torch.zeros(count, device=device)
        errors = torch.zeros(count, len(self.levels), device=device)
        mine = distributed.share(count)
        for first in range(mine.start, mine.stop, self.batch_size):
            part = slice(first, min(first + self.batch_size, mine.stop))
            images, indices = given.images[part].to(device), given.indices[part].tolist()
            labels = None if given.labels is None else given.labels[part].to(device)
            found = model.held_out_loss(images, labels, indices, self.seed, on_call)
            bits[part] = found.bits_per_dim.to(device, torch.float32)
            if found.errors is not None:
                errors[part] = found.errors.to(device, torch.float32)
        bits, errors = distributed.total(bits), distributed.total(errors)
        return HeldOutLoss(bits, errors if self.levels else None)

    # --- reporting

    def _history(self, trainer: L.Trainer) -> list[RecordedValidation]:
        """Return the validations so far; those of a resumed run up to its step, because it repeats later ones."""
        if self._earlier is None:
            self._earlier = [each for each in read_validations(self.folder) if each.step <= trainer.global_step]
        return self._earlier

    def _publish(self, trainer: L.Trainer, known: Sequence[RecordedValidation]) -> None:
        last = known[-1]
        mean, lowest = last.mean(), best(known)
        metrics = {
            "val/bits_per_dim": mean.value,
            "val/bits_per_dim_error": mean.error,
            "val/bits_per_dim_train": last.mean("train").value,
            "val/bits_per_dim_best": lowest.mean().value,
        }
        if self.ema is not None:
            metrics["val/bits_per_dim_raw"] = last.mean("raw").value
        if last.errors:
            by_level = np.stack([each.errors[each.weights].mean(0, dtype=np.float64) for each in known])
            metrics |= {level_name(each): float(error) for each, error in zip(self.levels, by_level[-1], strict=True)}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=last.step)
        if not trainer.is_global_zero:
            return
        if last.errors:
            with self._logging:
                picture = level_map([each.step for each in known], self.levels, by_level)
                log_images(trainer.loggers, {"val/errors": picture}, last.step)
        say(described(known))
        risen_above = overfits(known)
        if risen_above is not None:
            log.warning(
                "the held-out loss has risen since step %d (%.4g bits/dim, now %.4g), while that on training images "
                "falls: the model overfits. Use the weights of that step (checkpoint.monitor=val/bits_per_dim keeps "
                "them), stop with validation.patience, or train with more images, dropout or augmentation.",
                *(risen_above.step, risen_above.mean().value, mean.value),
            )

    def _end_if_exhausted(self, trainer: L.Trainer, known: Sequence[RecordedValidation]) -> None:
        """End training if the patience is exhausted; the first process decides."""
        reason = None if self.patience is None or not known else exhausted(known, self.patience)
        self.reason = trainer.strategy.broadcast(reason)
        if self.reason is not None:
            trainer.should_stop = True
            if trainer.is_global_zero and trainer.global_step < trainer.max_steps:
                say(f"step {trainer.global_step}: training ends early: {self.reason}")


def _as_is(_: L.LightningModule) -> AbstractContextManager[None]:
    return nullcontext()


def _numbers(values: Tensor) -> NDArray[Any]:
    found: NDArray[Any] = values.cpu().numpy()
    return found
