"""The training step of all model families: per-image losses, AdamW, clipping, skipped steps, logging, checkpoints."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from diffexp.models.base import GenerativeModel, log_every_n_steps
from diffexp.models.batch import AnyBatch, Batch, as_batch
from diffexp.models.loss_meter import LossMeter, PerSampleLoss
from diffexp.models.nonfinite import NonFiniteGuard
from diffexp.models.resumed_state import apply_settings, count_batches, group_settings
from diffexp.rng import Draw, DrawsAhead, RandomNumbers, derive_seed, seed_default_generators


class TrainingModule(GenerativeModel):
    """A generative model trained by gradient steps on one loss; subclasses implement `per_sample_loss`.

    The random numbers of step k for an image depend only on (seed, k) and the image's position in the global batch. The
    result is therefore independent of the number of devices and accumulated batches.

    Args:
        image_shape: (C, H, W).
        losses: accumulates the logged losses.
        classes: number of classes of a class-conditional model, else None.
    """

    def __init__(self, image_shape: tuple[int, int, int], losses: LossMeter, classes: int | None = None) -> None:
        super().__init__(image_shape, classes)
        self.losses = losses
        self.finite = NonFiniteGuard(self.optim.skip_nonfinite)
        self._ahead: dict[tuple[object, ...], DrawsAhead] = {}
        self._settings: list[dict[str, Any]] = []
        self._step = -1
        self._micro_batch = 0

    @abstractmethod
    def per_sample_loss(self, batch: Batch) -> PerSampleLoss:
        """Compute the loss of each image in this part of the global batch, and the values to log."""

    def after_loss(self, loss: PerSampleLoss) -> None:
        """Use the losses of a step; for models that choose their training samples by them."""

    def learned(self) -> list[dict[str, Any]]:
        """Return the optimiser's parameter groups."""
        return [{"params": [each for each in self.parameters() if each.requires_grad]}]

    # --- a step

    def training_step(self, batch: AnyBatch, batch_idx: int) -> Tensor:
        """Return the mean loss of a batch; see `diffexp.models.batch.as_batch` for its types.

        Raises:
            DivergedError: if it is not finite, or was not at an earlier step whose outcome was still pending.
        """
        given = as_batch(batch)
        step = self.trainer.global_step
        self._micro_batch = self._micro_batch + 1 if step == self._step else 0
        self._step = step
        seed_default_generators(given.images.device, "dropout", self.seed, step, self.part)
        loss = self.per_sample_loss(given)
        self.losses.update(loss)
        self.after_loss(loss)
        self._log(step + 1)
        minimized = loss.minimized if loss.weights is None else loss.minimized * loss.weights
        return self.finite.guarded(minimized, loss.t, given.index)

    def draw(self, size: int, shape: Sequence[int], purpose: str = "training") -> Draw:
        """Return this step's random numbers for this process's images, by their positions in the global batch.

        Args:
            size: number of images.
            shape: shape of the normals of an image.
            purpose: the purpose; draws for different purposes are independent.
        """
        first = self.part * size
        address = (purpose, first, size, tuple(shape), self.device)
        if address not in self._ahead:
            positions = torch.arange(first, first + size, device=self.device)
            self._ahead[address] = DrawsAhead(RandomNumbers(derive_seed(purpose, self.seed), positions), shape)
        return self._ahead[address].at(self._step)

    @property
    def parts(self) -> int:
        """Number of parts of a global batch: processes times accumulated batches."""
        return self.trainer.world_size * self.trainer.accumulate_grad_batches

    @property
    def part(self) -> int:
        """Index of this process's current part of the global batch."""
        return self._micro_batch * self.trainer.world_size + self.trainer.global_rank

    @property
    def ends_step(self) -> bool:
        """Whether this is the last accumulated batch of a step."""
        return self._micro_batch + 1 == self.trainer.accumulate_grad_batches

    def _log(self, step: int) -> None:
        """Log the mean losses since the last logged step, if the step about to end is a logged one."""
        trainer = self.trainer
        if step % log_every_n_steps(trainer) or not self.ends_step:
            return
        means = self.losses.means(trainer.strategy)
        self.losses.reset()
        metrics = {f"train/{name}": value for name, value in means.items()}
        if self.optim.skip_nonfinite:
            metrics["train/skipped"] = float(self.finite.skipped)
        metrics["train/lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        for logger in self.loggers:  # not self.log, whose steps count from 0, unlike those of checkpoints
            logger.log_metrics(metrics, step=step)
        # on the host: Lightning reads the bar's values after every step, which would synchronise with a GPU
        shown = torch.tensor(means.get("loss", math.nan))
        self.log("loss", shown, prog_bar=True, logger=False, batch_size=1)

    # --- the optimiser

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW with a linear warm-up and an optional cosine decay to 0 at the last step."""
        optim, total = self.optim, self.trainer.max_steps
        fp16 = self.trainer.precision == "16-mixed"
        before, self.finite = self.finite, NonFiniteGuard(optim.skip_nonfinite, fp16=fp16)
        self.finite.load(before.state())
        optimizer = torch.optim.AdamW(
            self.learned(),
            lr=optim.lr,
            betas=(optim.betas[0], optim.betas[1]),
            eps=optim.eps,
            weight_decay=optim.weight_decay,
            # The fused step unscales gradients itself, which prevents clipping under fp16.
            fused=not fp16,
        )

        def factor(step: int) -> float:
            if step < optim.warmup_steps:
                return (step + 1) / optim.warmup_steps
            if optim.decay == "cosine":
                progress = (step - optim.warmup_steps) / max(1, total - optim.warmup_steps)
                return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
            return 1.0

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        self._settings = group_settings(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Set the optimiser's settings and the first step's learning rates from the config.

        A checkpoint holds those of the config it was saved under; its rates are 0 at the end of a cosine decay.
        """
        schedule = self.lr_schedulers()
        if isinstance(schedule, torch.optim.lr_scheduler.LambdaLR):  # a subclass may use another scheduler
            apply_settings(schedule, self._settings)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient's norm, and skip the step if the norm is not finite.

        Lightning's own implementation rejects every fused optimiser, although only fp16 requires that.
        """
        # From the optimiser's lists: traversing all modules takes longer than the arithmetic of some steps.
        groups = optimizer.param_groups
        parameters = [each for group in groups for each in group["params"] if each.grad is not None]
        norm = torch.nn.utils.get_total_norm([each.grad for each in parameters])
        if gradient_clip_val is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)
        self.finite.check(norm, optimizer, self._step + 1)

    def on_train_end(self) -> None:
        """Inspect the outcome of the last step."""
        self.finite.look()

    # --- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what a resumed run needs: the losses not logged yet, and the counts of skipped steps."""
        self.finite.look()
        checkpoint["losses"] = self.losses.state(self.trainer.strategy)
        checkpoint["finite"] = self.finite.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the losses not logged yet and the counts of skipped steps, and adapt the count of batches."""
        count_batches(checkpoint, self.trainer.accumulate_grad_batches)
        self.losses.load(checkpoint["losses"], self.trainer.global_rank, self.trainer.world_size)
        self.finite.load(checkpoint["finite"])
