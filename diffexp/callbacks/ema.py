"""Exponential moving average (EMA) of the weights, kept in addition to the raw weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import lightning as L
import torch
from torch import Tensor

from diffexp.checkpoints.file import STATE_KEY
from diffexp.config.schemas.experiment import Experiment


class EMA(L.Callback):
    """Exponential moving average of the parameters θ, updated after every optimiser step.

    After step k = 1, 2, … of B images each, with EDM's ramp-up (Karras et al. 2022)::

        θ_ema ← d θ_ema + (1-d) θ,      d = 2^(-B/h_k),      h_k = min(h, rampup · k B)

    The contribution of θ to the average halves every h images. The ramp-up makes the average forget the random
    initialisation quickly.

    Lightning's WeightAveraging does not count images, copies the entire module, and replaces the raw weights by the
    average at the end of training. Here both are kept, in memory and in checkpoints.

    Args:
        half_life: h, in images.
        batch_size: B, images per optimiser step over all processes and accumulated batches.
        rampup: upper limit of the half-life as a share of the images seen so far; None disables it.
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
        """Build the EMA of a config, or return None if it has none."""
        wanted = experiment.ema
        return None if wanted is None else cls(wanted.half_life, experiment.training.batch_size, wanted.rampup)

    @property
    def state_key(self) -> str:
        """The key of the average in checkpoints."""
        return STATE_KEY

    def decay(self, step: int) -> float:
        """Return d, the weight of the old average at optimiser step 1, 2, …."""
        half_life = self.half_life
        if self.rampup is not None:
            half_life = min(half_life, self.rampup * step * self.batch_size)
        return float(0.5 ** (self.batch_size / half_life))

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Initialise the average with the raw weights, or with the average of a checkpoint."""
        self._parameters = list(pl_module.parameters())
        with torch.no_grad():
            self._average = {
                name: self._average.get(name, parameter).detach().to(parameter.device, copy=True)
                for name, parameter in pl_module.named_parameters()
            }

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Update the average if this batch ended an optimiser step."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        with torch.no_grad():
            torch._foreach_lerp_(list(self._average.values()), self._parameters, 1 - self.decay(self._step))

    @contextmanager
    def applied(self, pl_module: L.LightningModule) -> Iterator[None]:
        """Use the averaged weights in the module within this context."""
        raw = {name: parameter.data for name, parameter in pl_module.named_parameters()}
        for name, parameter in pl_module.named_parameters():
            parameter.data = self._average[name]
        try:
            yield
        finally:
            for name, parameter in pl_module.named_parameters():
                parameter.data = raw[name]

    def state_dict(self) -> dict[str, Any]:
        """Return the average and its step."""
        return {"step": self._step, "average": self._average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the average of a checkpoint."""
        self._step = state_dict["step"]
        self._average = state_dict["average"]
