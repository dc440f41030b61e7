"""A denoising diffusion model: network, schedule and loss as a LightningModule."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from diffexp.config.diffusion import SAMPLERS, SCHEDULES, SamplerConfig, ScheduleConfig
from diffexp.config.experiment import Optim
from diffexp.config.networks import NETWORKS, NetworkConfig
from diffexp.config.objectives import WEIGHTINGS, WeightingConfig
from diffexp.data.images import to_float
from diffexp.diffusion.objectives import LossName, Objective
from diffexp.diffusion.paths import timestep_path
from diffexp.diffusion.predictions import Denoised, Denoiser, Prediction, clipped
from diffexp.diffusion.samplers import State
from diffexp.diffusion.schedules import MUCH_SIGNAL, Schedule, with_zero_terminal_snr
from diffexp.diffusion.timesteps import stratified, uniform
from diffexp.errors import UserError
from diffexp.models.base import GenerativeModel, log_every
from diffexp.models.compiled import Compiled
from diffexp.models.finite import FiniteSteps
from diffexp.models.losses import LossByTime
from diffexp.randomness import ImageNoise, derive_seed, generator, seed_drawing

log = logging.getLogger(__name__)

_SMALLEST = 1e-12  # an SNR, against a division by 0


class DiffusionModule(GenerativeModel):
    """Learns to predict, from x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε at random t, the target of its prediction.

    What is minimised is an `Objective`; what is logged, its unweighted error. Step k of training draws t and ε from the
    address (seed, k) and the image's position in the global batch, so that the devices and accumulated batches over
    which a step is spread change nothing.

    Args:
        image_shape: (C, H, W).
        network: (x_t (B, C, H, W), indices t (B,)) → (B, C, H, W).
        schedule: the noise schedule.
        prediction: what the network predicts, one of `diffexp.diffusion.predictions.PREDICTIONS`.
        optim: the optimiser's settings.
        seed: of t, ε and dropout in training.
        loss: see `Objective`; with another than "simple", the network has twice the images' channels.
        weights: of the simple loss by timestep, (T,); None is 1.
        stratified: draw one timestep from each of as many equal parts of them as a step has images.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        network: nn.Module,
        schedule: Schedule,
        prediction: str = "epsilon",
        optim: Optim | None = None,
        seed: int = 0,
        *,
        loss: LossName = "simple",
        weights: Tensor | None = None,
        stratified: bool = False,
    ) -> None:
        super().__init__(image_shape)
        self.network = network
        self.schedule = schedule
        self.prediction = Prediction(prediction, schedule, learned_variance=loss != "simple")
        self.objective = Objective(self.prediction, loss, weights)
        self.stratified = stratified
        self.optim = optim or Optim()
        self.seed = seed
        self.losses = LossByTime(schedule.timesteps)
        self.finite = FiniteSteps(self.optim.skip_nonfinite)
        self._compiled: dict[str, Compiled] = {}
        self._step = -1
        self._micro_batch = 0

    def compile_network(self, *, training: bool = False, sampling: bool = False) -> None:
        """Have the network compiled at its next call; see `Compiled`."""
        if training:
            self._compiled["training"] = Compiled(self.network)
        if sampling:
            self._compiled["sampling"] = Compiled(self.network, graphs=True)

    # --- training

    def loss(self, x0: Tensor, noise: Tensor, t: Tensor, other: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(the prediction's error of each image, what is minimised of it), both (B,); see `Objective.losses`."""
        return self.objective.losses(self._compiled.get("training", self.network), x0, noise, t, other)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The mean loss of a batch: ``images``, uint8 or float in [-1, 1], shape (B, C, H, W); ``index`` for messages.

        Raises:
            DivergedError: if it is not finite, or was not in an earlier step that could not be looked at before.
        """
        images = batch["images"]
        x0 = to_float(images) if images.dtype == torch.uint8 else images
        step = self.trainer.global_step
        self._micro_batch = self._micro_batch + 1 if step == self._step else 0
        self._step = step
        t, noise, other = self._draw(x0)
        error, minimised = self.loss(x0, noise, t, other)
        self.losses.add(error.detach(), t)
        self._log(step + 1)
        return self.finite.guarded(minimised, t, batch.get("index"))

    def _draw(self, x0: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """t (B,), ε of x0's shape and maybe a second noise: this process's part of the global batch's draws."""
        trainer = self.trainer
        parts = trainer.world_size * trainer.accumulate_grad_batches
        part = self._micro_batch * trainer.world_size + trainer.global_rank
        mine = slice(part * len(x0), (part + 1) * len(x0))
        source = generator(x0.device, "training", self.seed, self._step)
        count = parts * len(x0)
        draw_timesteps = stratified if self.stratified else uniform
        t = draw_timesteps(self.schedule.timesteps, count, source)
        noise = torch.randn(count, *x0.shape[1:], generator=source, device=x0.device)
        other = None
        if self.prediction.name == "step_epsilon":
            other = torch.randn(count, *x0.shape[1:], generator=source, device=x0.device)[mine]
        seed_drawing(x0.device, "dropout", self.seed, self._step, part)
        return t[mine], noise[mine], other

    def _log(self, step: int) -> None:
        """Log the losses since the last point, when the step that is about to end is a logged one."""
        trainer = self.trainer
        if step % log_every(trainer) or self._micro_batch + 1 < trainer.accumulate_grad_batches:
            return
        means = self.losses.means(trainer.strategy)
        self.losses.reset()
        metrics = {f"train/{name}": value for name, value in means.items()}
        if self.optim.skip_nonfinite:
            metrics["train/left_out"] = float(self.finite.left_out)
        metrics["train/lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        for logger in self.loggers:  # not self.log, whose steps are counted from 0 and differ from the checkpoints'
            logger.log_metrics(metrics, step=step)
        self.log("loss", means.get("loss", math.nan), prog_bar=True, logger=False, batch_size=1)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with a linear warm-up and an optional cosine decay to 0 at the last step."""
        optim, total = self.optim, self.trainer.max_steps
        fp16 = self.trainer.precision == "16-mixed"
        before, self.finite = self.finite, FiniteSteps(optim.skip_nonfinite, fp16=fp16)
        self.finite.load(before.state())
        optimizer = torch.optim.AdamW(
            self.network.parameters(),
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

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient's norm, and leave out the step if that is not finite.

        Lightning's own refuses every fused optimiser, though only fp16 is a reason to.
        """
        # the optimiser's list: to walk through all modules takes longer than some steps' arithmetic
        parameters = [each for each in optimizer.param_groups[0]["params"] if each.grad is not None]
        norm = torch.nn.utils.get_total_norm([each.grad for each in parameters])
        if gradient_clip_val is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)
        self.finite.check(norm, optimizer, self._step + 1)

    def on_train_end(self) -> None:
        """Look at the last step."""
        self.finite.look()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the losses not yet logged, so that a resumed run logs the same curve, and the steps left out."""
        self.finite.look()
        checkpoint["losses"] = self.losses.state(self.trainer.strategy)
        checkpoint["finite"] = self.finite.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the losses not yet logged, and the count of steps left out."""
        self.losses.load(checkpoint["losses"], self.trainer.global_rank, self.trainer.world_size)
        self.finite.load(checkpoint["finite"])

    # --- sampling

    @torch.no_grad()
    def states(
        self, sampler: SamplerConfig, noise: ImageNoise, on_call: Callable[[], object] | None = None
    ) -> Iterator[State]:
        """Sample step by step, yielding every intermediate state; see `diffexp.diffusion.samplers.Sampler.walk`."""
        denoiser = self.prediction.denoiser(self._compiled.get("sampling", self.network))
        if sampler.clip:
            denoiser = clipped(denoiser, self.schedule, sampler.clip_quantile)
        if on_call is not None:
            denoiser = _telling(denoiser, on_call)
        schedule = self.schedule
        path = timestep_path(schedule.timesteps, sampler.steps, sampler.spacing, schedule.alphas_cumprod.tolist())
        yield from SAMPLERS.build(sampler).walk(denoiser, schedule, path, noise.draw(), noise.draw)

    def sample(
        self, variant: SamplerConfig, indices: Sequence[int], seed: int, on_call: Callable[[], object] | None = None
    ) -> Tensor:
        """Draw images with a sampler; see `GenerativeModel.sample`."""
        noise = ImageNoise(seed, indices, self.image_shape, self.device)
        training = self.network.training
        self.network.eval()
        try:
            for state in self.states(variant, noise, on_call):
                images = state.x
        finally:
            self.network.train(training)
        return images

    def network_calls(self, variant: SamplerConfig) -> int:
        """One a step, of most samplers."""
        return variant.network_calls(self.schedule.timesteps)

    def label(self, variant: SamplerConfig) -> str:
        """The sampler's name, steps and keys."""
        return variant.label(variant.steps or self.schedule.timesteps)


def _telling(denoiser: Denoiser, on_call: Callable[[], object]) -> Denoiser:
    """The denoiser that tells after every call."""

    def denoise(x_t: Tensor, t: int) -> Denoised:
        denoised = denoiser(x_t, t)
        on_call()
        return denoised

    return denoise


def from_config(
    image_shape: tuple[int, int, int],
    optim: Optim,
    seed: int,
    *,
    timesteps: int,
    schedule: ScheduleConfig,
    prediction: str,
    loss: LossName,
    weighting: WeightingConfig,
    timesteps_drawn: str,
    network: NetworkConfig,
) -> DiffusionModule:
    """Build the module that a config describes, its weights drawn from the seed.

    Raises:
        UserError: if the schedule is invalid at this T.
    """
    built = _schedule(schedule, timesteps)
    wider = {} if loss == "simple" else {"out_channels": 2 * image_shape[0]}
    with torch.random.fork_rng(devices=[]):  # built on the CPU
        torch.manual_seed(derive_seed("weights", seed))
        built_network = NETWORKS.build(network, image_shape, **wider)
    try:
        weights = WEIGHTINGS.build(weighting, built.alphas_cumprod / (1 - built.alphas_cumprod))
        if weights is not None:
            weights = weights / Prediction(prediction, built).error_of_x0().clamp(min=_SMALLEST)
        return DiffusionModule(
            image_shape,
            built_network,
            built,
            prediction,
            optim,
            seed,
            loss=loss,
            weights=weights,
            stratified=timesteps_drawn == "stratified",
        )
    except ValueError as error:
        raise UserError(f"model.prediction: {error}") from error


def _schedule(schedule: ScheduleConfig, timesteps: int) -> Schedule:
    """The schedule that a config describes; warns if it leaves much signal.

    Raises:
        UserError: if it is invalid at this T.
    """
    try:
        betas = SCHEDULES.build(schedule, timesteps)
        if not isinstance(betas, Tensor) or betas.shape != (timesteps,):
            raise ValueError(f"must give a tensor of shape ({timesteps},)")
        wanted = schedule.zero_terminal_snr
        built = Schedule(with_zero_terminal_snr(betas) if wanted else betas, zero_terminal_snr=wanted)
    except ValueError as error:
        raise UserError(f"model.schedule: {schedule.name} at model.timesteps = {timesteps}: {error}") from error
    if built.terminal_signal > MUCH_SIGNAL:
        rescalable = getattr(schedule, "rescale", "") == "none" and built.betas.max() * 1000 / timesteps < 1
        remedy = "; rescale: 1000/T keeps what T = 1000 has" if rescalable else ""
        log.warning(
            "model.schedule: %s at T = %d leaves √ᾱ_T = %.3g of the signal in x_T, but sampling starts from none%s",
            *(schedule.name, timesteps, built.terminal_signal, remedy),
        )
    return built
