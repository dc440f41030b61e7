"""A moving average of the weights, beside the raw ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import lightning as L
import torch
from torch import Tensor

from diffexp.checkpoints.file import STATE_KEY
from diffexp.config.schemas.experiment import Experiment


class EMA(L.Callback):
    """Exponential moving average of the parameters, updated after every optimiser step.

    After a step of B images the average moves by 1 - 2^(-B/h) towards the weights: a weight's share in it
    halves every h images. During warm-up h is smaller: `rampup` times the images seen so far (EDM's rule),
    so that the average soon forgets the random start.

    Why not Lightning's WeightAveraging: it counts no images, copies the whole module, and at the end of
    training puts the average in the place of the raw weights; here both stay, in memory and in checkpoints.

    Args:
        half_life: h, in images.
        batch_size: B, images per optimiser step over all processes and accumulated batches.
        rampup: the warm-up's share of the images seen; None switches it off.
    """

    def __init__(self, half_life: float, batch_size: int, rampup: float | None = 0.05) -> None:
        self.half_life = half_life
        self.batch_size = batch_size
        self.rampup = rampup
        self._step = 0
        self._average: dict[str, Tensor] = {}
        self._parameters: list[Tensor] = []

    @classmethod
    def from_config(cls, experiment: Experiment) -> Self | None:
        """The average that a config asks for, or None."""
        wanted = experiment.ema
        return None if wanted is None else cls(wanted.half_life, experiment.training.batch_size, wanted.rampup)

    @property
    def state_key(self) -> str:
        """The name of the average in checkpoints."""
        return STATE_KEY

    def decay(self, step: int) -> float:
        """The share of the old average that stays at optimiser step 1, 2, …"""
        half_life = self.half_life
        if self.rampup is not None:
            half_life = min(half_life, self.rampup * step * self.batch_size)
        return float(0.5 ** (self.batch_size / half_life))

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start from the raw weights, or from a checkpoint's average."""
        self._parameters = list(pl_module.parameters())
        with torch.no_grad():
            self._average = {
                name: self._average.get(name, parameter).detach().to(parameter.device, copy=True)
                for name, parameter in pl_module.named_parameters()
            }

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Update, if this batch ended an optimiser step."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        with torch.no_grad():
            torch._foreach_lerp_(list(self._average.values()), self._parameters, 1 - self.decay(self._step))

    @contextmanager
    def applied(self, pl_module: L.LightningModule) -> Iterator[None]:
        """Within this context the module has the averaged weights."""
        raw = {name: parameter.data for name, parameter in pl_module.named_parameters()}
        for name, parameter in pl_module.named_parameters():
            parameter.data = self._average[name]
        try:
            yield
        finally:
            for name, parameter in pl_module.named_parameters():
                parameter.data = raw[name]

    def state_dict(self) -> dict[str, Any]:
        """The average and the step it belongs to."""
        return {"step": self._step, "average": self._average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the average of a checkpoint."""
        self._step = state_dict["step"]
        self._average = state_dict["average"]
