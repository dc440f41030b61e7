"""How every family learns: one loss an image, AdamW, clipping, steps left out, logged means, what checkpoints keep."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from diffexp.config.experiment import Optim
from diffexp.data.images import to_float
from diffexp.models.base import GenerativeModel, log_every
from diffexp.models.finite import FiniteSteps
from diffexp.models.losses import MeanLosses
from diffexp.randomness import Draw, DrawsAhead, RandomNumbers, derive_seed, seed_drawing


class Learner(GenerativeModel):
    """A generative model that gradient steps on one loss train; a family gives `step_losses`.

    What step k draws for an image is a function of (seed, k) and the image's position in the global batch, so that the
    devices and accumulated batches over which a step is spread change nothing.

    Args:
        image_shape: (C, H, W).
        optim: the optimiser's settings.
        seed: of everything that training draws.
        losses: takes what is logged.
        classes: of the images, if it learns them.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        optim: Optim | None,
        seed: int,
        losses: MeanLosses,
        classes: int | None = None,
    ) -> None:
        super().__init__(image_shape, classes)
        self.optim = optim or Optim()
        self.seed = seed
        self.losses = losses
        self.finite = FiniteSteps(self.optim.skip_nonfinite)
        self._ahead: dict[tuple[object, ...], DrawsAhead] = {}
        self._step = -1
        self._micro_batch = 0

    @abstractmethod
    def step_losses(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What a step minimises; it also adds what is logged to `self.losses`.

        Args:
            images: of this part of the global batch, float (B, C, H, W) in [-1, 1].
            labels: their classes (B,), of data that has them.

        Returns:
            The losses of the images (B,), whose mean is minimised, and their timesteps (B,) for messages, of models
            that have such.
        """

    def learned(self) -> list[dict[str, Any]]:
        """The optimiser's parameter groups."""
        return [{"params": [each for each in self.parameters() if each.requires_grad]}]

    # --- a step

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The mean loss of a batch: ``images``, uint8 or float in [-1, 1], shape (B, C, H, W); ``index`` for messages.

        Raises:
            DivergedError: if it is not finite, or was not in an earlier step that could not be looked at before.
        """
        images = batch["images"]
        x = to_float(images) if images.dtype == torch.uint8 else images
        step = self.trainer.global_step
        self._micro_batch = self._micro_batch + 1 if step == self._step else 0
        self._step = step
        seed_drawing(x.device, "dropout", self.seed, step, self.part)
        minimised, t = self.step_losses(x, batch.get("labels"))
        self._log(step + 1)
        return self.finite.guarded(minimised, t, batch.get("index"))

    def draw(self, size: int, shape: Sequence[int], purpose: str = "training") -> Draw:
        """What this step draws for the `size` images here, by their positions in the global batch.

        Args:
            size: images.
            shape: of the normals of an image.
            purpose: draws for one purpose are independent of those for another.
        """
        first = self.part * size
        address = (purpose, first, size, tuple(shape), self.device)
        if address not in self._ahead:
            positions = torch.arange(first, first + size, device=self.device)
            self._ahead[address] = DrawsAhead(RandomNumbers(derive_seed(purpose, self.seed), positions), shape)
        return self._ahead[address].at(self._step)

    @property
    def parts(self) -> int:
        """Processes times accumulated batches: the parts of a global batch."""
        return self.trainer.world_size * self.trainer.accumulate_grad_batches

    @property
    def part(self) -> int:
        """Which of them this process is at."""
        return self._micro_batch * self.trainer.world_size + self.trainer.global_rank

    @property
    def ends_step(self) -> bool:
        """Whether this is the last of a step's accumulated batches."""
        return self._micro_batch + 1 == self.trainer.accumulate_grad_batches

    def _log(self, step: int) -> None:
        """Log the losses since the last point, when the step that is about to end is a logged one."""
        trainer = self.trainer
        if step % log_every(trainer) or not self.ends_step:
            return
        means = self.losses.means(trainer.strategy)
        self.losses.reset()
        metrics = {f"train/{name}": value for name, value in means.items()}
        if self.optim.skip_nonfinite:
            metrics["train/left_out"] = float(self.finite.left_out)
        metrics["train/lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        for logger in self.loggers:  # not self.log, whose steps are counted from 0 and differ from the checkpoints'
            logger.log_metrics(metrics, step=step)
        # on the host: Lightning reads what a bar shows after every step, and would wait for a GPU's
        shown = torch.tensor(means.get("loss", math.nan))
        self.log("loss", shown, prog_bar=True, logger=False, batch_size=1)

    # --- the optimiser

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with a linear warm-up and an optional cosine decay to 0 at the last step."""
        optim, total = self.optim, self.trainer.max_steps
        fp16 = self.trainer.precision == "16-mixed"
        before, self.finite = self.finite, FiniteSteps(optim.skip_nonfinite, fp16=fp16)
        self.finite.load(before.state())
        optimizer = torch.optim.AdamW(
            self.learned(),
            lr=optim.lr,
            betas=(optim.betas[0], optim.betas[1]),
            eps=optim.eps,
            weight_decay=optim.weight_decay,
            # the fused step unscales gradients itself, which forbids clipping them under fp16
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
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Set the first step's learning rates from the config.

        A checkpoint holds those of the config it was saved under, which are 0 at the end of a cosine. The values of a
        resumed run whose config has not changed stay the same, bit for bit.
        """
        schedule = self.lr_schedulers()
        if isinstance(schedule, torch.optim.lr_scheduler.LambdaLR):  # a subclass may schedule in another way
            rates = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
            schedule._last_lr = [base * factor(schedule.last_epoch) for base, factor in rates]
            for group, rate in zip(schedule.optimizer.param_groups, schedule._last_lr, strict=True):
                group["lr"] = rate

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient's norm, and leave out the step if that is not finite.

        Lightning's own refuses every fused optimiser, though only fp16 is a reason to.
        """
        # the optimiser's lists: to walk through all modules takes longer than some steps' arithmetic
        groups = optimizer.param_groups
        parameters = [each for group in groups for each in group["params"] if each.grad is not None]
        norm = torch.nn.utils.get_total_norm([each.grad for each in parameters])
        if gradient_clip_val is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)
        self.finite.check(norm, optimizer, self._step + 1)

    def on_train_end(self) -> None:
        """Look at the last step."""
        self.finite.look()

    # --- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what a resumed run needs to do and log the same: losses not yet logged, steps left out."""
        self.finite.look()
        checkpoint["losses"] = self.losses.state(self.trainer.strategy)
        checkpoint["finite"] = self.finite.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up what was kept."""
        self.losses.load(checkpoint["losses"], self.trainer.global_rank, self.trainer.world_size)
        self.finite.load(checkpoint["finite"])
