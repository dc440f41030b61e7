"""The gradient's variance of the lecture notes' un-merged loss beside that of the merged one, while training."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from diffexp.models.batch import as_batch
from diffexp.models.diffusion import DiffusionModule
from diffexp.models.training_noise import TIMESTEPS, TrainingNoise
from diffexp.rng import RandomNumbers, derive_seed


class GradientVariance(L.Callback):
    """Every so many steps, draws t, ε and ω anew for the step's images, and logs how much the gradient varies.

    Both losses have the same expectation: the un-merged target is ε_t = √(β_t/(1-ᾱ_t)) ε + √(1-β_t/(1-ᾱ_t)) ω, and the
    merged one its mean over ω. The variance is the trace of the gradient's covariance over all weights; logged are
    ``train/gradient_variance_unmerged`` and ``train/gradient_variance_merged``. The training itself does not change.

    Args:
        every: optimiser steps between two times.
        draws: how many times they are drawn, at least 2.
    """

    def __init__(self, every: int, draws: int) -> None:
        self.every = every
        self.draws = draws
        self._step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin after the step of the checkpoint."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure, if this batch ended a step that is due."""
        step, before = trainer.global_step, self._step
        self._step = step
        if step == before or step % self.every or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, DiffusionModule)
        pl_module.network.eval()  # without dropout, whose random numbers are the training's
        with trainer.precision_plugin.forward_context():
            given = as_batch(batch)
            merged, unmerged = self.measure(pl_module, given.images, given.labels, step)
        pl_module.network.train()
        metrics = {"train/gradient_variance_merged": merged, "train/gradient_variance_unmerged": unmerged}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)

    def measure(self, model: DiffusionModule, x0: Tensor, labels: Tensor | None, step: int) -> tuple[float, float]:
        """(variance of the merged loss's gradient, of the un-merged one's) for images x0 (B, C, H, W) in [-1, 1]."""
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
                squares[kind] += gradient.square().sum(dtype=torch.float64).item()
        merged, unmerged = (
            (square - total.square().sum(dtype=torch.float64).item() / self.draws) / (self.draws - 1)
            for square, total in zip(squares, sums, strict=True)
        )
        return merged, unmerged
