"""Measure in training the gradient variance of the merged and the un-merged loss of the lecture notes."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from diffexp.models.batch import as_batch
from diffexp.models.diffusion import DiffusionModule
from diffexp.models.training_noise import TIMESTEPS, TrainingNoise
from diffexp.rng import RandomNumbers, derive_seed
from diffexp.system.devices import float64_device


class GradientVariance(L.Callback):
    """Logs the variance of the gradient for the current batch, over repeated draws of t, ε and ω.

    Both losses have the same expectation. The un-merged target is ε_t = √(β_t/(1-ᾱ_t)) ε + √(1-β_t/(1-ᾱ_t)) ω, and the
    merged target is its mean over ω. The variance is the trace of the covariance of the gradient with respect to all
    weights, logged as ``train/gradient_variance_unmerged`` and ``train/gradient_variance_merged``. Training is not
    affected.

    Args:
        every: optimiser steps between two measurements.
        draws: number of draws, at least 2.
    """

    def __init__(self, every: int, draws: int) -> None:
        self.every = every
        self.draws = draws
        self._step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start after the step of the checkpoint."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure if this batch ended a step that is due."""
        step, before = trainer.global_step, self._step
        self._step = step
        if step == before or step % self.every or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, DiffusionModule)
        pl_module.network.eval()  # no dropout, which would consume random numbers of training
        with trainer.precision_plugin.forward_context():
            given = as_batch(batch)
            merged, unmerged = self.measure(pl_module, given.images, given.labels, step)
        pl_module.network.train()
        metrics = {"train/gradient_variance_merged": merged, "train/gradient_variance_unmerged": unmerged}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)

    def measure(self, model: DiffusionModule, x0: Tensor, labels: Tensor | None, step: int) -> tuple[float, float]:
        """Estimate the gradient variance of the merged and of the un-merged loss.

        Args:
            model: the model.
            x0: x_0 in [-1, 1], shape (B, C, H, W).
            labels: class labels (B,), or None.
            step: the optimiser step, which seeds the draws.

        Returns:
            (variance of the merged loss's gradient, variance of the un-merged loss's gradient).
        """
        weights = [weight for weight in model.network.parameters() if weight.requires_grad]
        sums = [torch.zeros(sum(each.numel() for each in weights), device=x0.device) for _ in range(2)]
        squares = [0.0, 0.0]
        for number in range(self.draws):
            key = derive_seed("gradient variance", model.seed, step, number)
            numbers = RandomNumbers(key, torch.arange(len(x0), device=x0.device))
            of_noise, of_other = numbers.draws(0, 2, x0.shape[1:])
            t = (of_noise.uniforms[TIMESTEPS] * model.schedule.timesteps).long()
            noise, other = of_noise.normals, of_other.normals
            for kind, omega in enumerate((torch.zeros_like(other), other)):
                _, minimised = model.loss(x0, TrainingNoise(t, noise, omega, labels))
                found = torch.autograd.grad(minimised.mean(), weights)
                gradient = torch.cat([each.flatten().float() for each in found])
                sums[kind] += gradient
                squares[kind] += _squared_norm(gradient)
        merged, unmerged = (
            (square - _squared_norm(total) / self.draws) / (self.draws - 1)
            for square, total in zip(squares, sums, strict=True)
        )
        return merged, unmerged


def _squared_norm(gradient: Tensor) -> float:
    return gradient.square().to(float64_device(gradient.device)).sum(dtype=torch.float64).item()
