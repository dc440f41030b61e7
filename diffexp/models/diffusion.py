"""A denoising diffusion model: network, schedule and loss as a LightningModule."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from diffexp.config.diffusion import SAMPLERS, SamplerConfig
from diffexp.config.evaluation import LikelihoodConfig
from diffexp.config.experiment import Optim
from diffexp.data.images import to_float
from diffexp.diffusion.bound import Bound
from diffexp.diffusion.guidance import LabelledNetwork, guided, labelled
from diffexp.diffusion.likelihood import bound, dequantised, ode
from diffexp.diffusion.objectives import LossName, Objective
from diffexp.diffusion.paths import Path, timestep_path
from diffexp.diffusion.predictions import Denoiser, Prediction, clipped
from diffexp.diffusion.samplers import State
from diffexp.diffusion.schedules import Schedule
from diffexp.diffusion.timesteps import ByImportance, Timesteps, Uniform
from diffexp.models.base import GenerativeModel, log_every
from diffexp.models.compiled import Compiled
from diffexp.models.draws import Drawing, Draws, draw
from diffexp.models.finite import FiniteSteps
from diffexp.models.losses import LossByTime
from diffexp.randomness import ImageNoise, generator, seed_drawing


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
        timesteps: how a step draws them; None is `Uniform`.
        classes: of the images; then the network is a `LabelledNetwork`. None learns without labels.
        label_dropout: probability in training that an image counts as of no class.
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
        timesteps: Timesteps | None = None,
        classes: int | None = None,
        label_dropout: float = 0.1,
    ) -> None:
        super().__init__(image_shape, classes)
        self.network = network
        self.schedule = schedule
        self.prediction = Prediction(prediction, schedule, learned_variance=loss != "simple")
        self.objective = Objective(self.prediction, loss, weights)
        twice = prediction == "step_epsilon"
        self.timesteps = timesteps or Uniform(schedule.timesteps)
        self.drawing = Drawing(self.timesteps, twice, label_dropout if classes is not None else None)
        self.optim = optim or Optim()
        self.seed = seed
        self.losses = LossByTime(schedule.timesteps)
        self.finite = FiniteSteps(self.optim.skip_nonfinite)
        self._compiled: dict[str, Compiled] = {}
        self._seen: list[Tensor] = []
        self._step = -1
        self._micro_batch = 0

    def compile_network(self, *, training: bool = False, sampling: bool = False) -> None:
        """Have the network compiled at its next call; see `Compiled`."""
        if training:
            self._compiled["training"] = Compiled(self.network)
        if sampling:
            self._compiled["sampling"] = Compiled(self.network, graphs=True)

    # --- training

    def loss(self, x0: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """(the prediction's error of each image, what is minimised of it), both (B,); see `Objective.losses`."""
        network: Any = self._compiled.get("training", self.network)
        if draws.labels is not None:
            network = labelled(network, draws.labels)
        return self.objective.losses(network, x0, draws.noise, draws.t, draws.other)

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
        draws = self._draw(x0, batch.get("labels"))
        error, minimised = self.loss(x0, draws)
        self.losses.add(error.detach(), draws.t, draws.weights)
        if isinstance(self.timesteps, ByImportance):
            self._learn(self.timesteps, draws.t, minimised.detach())
        self._log(step + 1)
        if draws.weights is not None:
            minimised = minimised * draws.weights
        return self.finite.guarded(minimised, draws.t, batch.get("index"))

    def _learn(self, timesteps: ByImportance, t: Tensor, losses: Tensor) -> None:
        """At the end of a step, remember the losses of all its parts, in the order of its images."""
        self._seen.append(torch.stack([t.double(), losses.double()]))
        if self._micro_batch + 1 == self.trainer.accumulate_grad_batches:
            gathered = self.trainer.strategy.all_gather(torch.stack(self._seen, dim=1))  # (2, accumulated, B) of each
            assert isinstance(gathered, Tensor)
            all_t, all_losses = gathered.reshape(-1, 2, len(self._seen), len(t)).permute(1, 2, 0, 3).flatten(1)
            timesteps.add(all_t.long(), all_losses)
            self._seen.clear()

    def _draw(self, x0: Tensor, labels: Tensor | None = None) -> Draws:
        """This process's part of what the global batch of this step draws, for its images and their labels (B,)."""
        trainer = self.trainer
        parts = trainer.world_size * trainer.accumulate_grad_batches
        part = self._micro_batch * trainer.world_size + trainer.global_rank
        source = generator(x0.device, "training", self.seed, self._step)
        whole = draw(x0, parts, source, self.drawing)
        seed_drawing(x0.device, "dropout", self.seed, self._step, part)
        return whole.of(part, len(x0), labels, self.classes)

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
        """Keep what a resumed run needs to do and log the same: losses not yet logged, steps left out, p_t."""
        self.finite.look()
        checkpoint["losses"] = self.losses.state(self.trainer.strategy)
        checkpoint["finite"] = self.finite.state()
        if isinstance(self.timesteps, ByImportance):
            checkpoint["timesteps"] = self.timesteps.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up what was kept."""
        self.losses.load(checkpoint["losses"], self.trainer.global_rank, self.trainer.world_size)
        self.finite.load(checkpoint["finite"])
        if isinstance(self.timesteps, ByImportance):
            self.timesteps.load(checkpoint["timesteps"])

    # --- sampling

    @torch.no_grad()
    def states(
        self, sampler: SamplerConfig, noise: ImageNoise, on_call: Callable[[], object] | None = None
    ) -> Iterator[State]:
        """Sample step by step, yielding every intermediate state; see `diffexp.diffusion.samplers.Sampler.walk`."""
        schedule = self.schedule
        path = timestep_path(schedule.timesteps, sampler.steps, sampler.spacing, schedule.alphas_cumprod.tolist())
        network: Any = self._compiled.get("sampling", self.network)
        if on_call is not None:
            network = _telling(network, on_call)
        if self.classes is None:
            denoiser = self.prediction.denoiser(network)
        else:
            denoiser = self._of_classes(network, self.classes, sampler, path, noise.indices)
        if sampler.clip:
            denoiser = clipped(denoiser, schedule, sampler.clip_quantile)
        yield from SAMPLERS.build(sampler).walk(denoiser, schedule, path, noise.draw(), noise.draw)

    def _of_classes(
        self, network: LabelledNetwork, classes: int, sampler: SamplerConfig, path: Path, indices: Sequence[int]
    ) -> Denoiser:
        """The denoiser for the classes of these images, guided as the sampler says."""
        wanted = [index % classes if sampler.class_label is None else sampler.class_label for index in indices]
        labels = torch.tensor(wanted, device=self.device)
        twice = sampler.guided_steps(self.schedule.timesteps)
        active = {t for (t, _), guides in zip(path, twice, strict=True) if guides}
        of_class, of_none = (
            self.prediction.denoiser(labelled(network, each)) for each in (labels, torch.full_like(labels, classes))
        )
        return guided(of_class, of_none, sampler.guidance, active.__contains__)

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

    def bits_per_dim(
        self,
        images: Tensor,
        indices: Sequence[int],
        seed: int,
        wanted: LikelihoodConfig,
        on_call: Callable[[], object] | None = None,
    ) -> dict[str, Tensor]:
        """By the variational bound and by the probability-flow ODE, without labels; see `GenerativeModel`."""
        self.network.eval()
        network: Any = self.network if on_call is None else _telling(self.network, on_call)
        if self.classes is not None:
            network = labelled(network, torch.full((len(images),), self.classes, device=self.device))
        schedule, prediction, x0 = self.schedule, self.prediction, to_float(images)
        noise = ImageNoise(seed, indices, self.image_shape, self.device)

        def estimate(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
            output, share = prediction.split(network(x_t, t).float())
            return prediction.x0(prediction.estimate(output, t), x_t, t).clamp(-1, 1), share

        terms = Bound(schedule, "learned" if prediction.learned_variance else wanted.variance)
        with torch.no_grad():
            found = {"bound": bound(terms, estimate, x0, self._terms(wanted), noise.draw)}
        if wanted.ode_steps is not None:
            levels = min(wanted.ode_steps, schedule.timesteps)
            path = timestep_path(schedule.timesteps, levels, "logsnr", schedule.alphas_cumprod.tolist())
            x, probe = dequantised(x0, noise.draw()), noise.draw().sign()
            found["ode"] = ode(prediction.denoiser(network), schedule, path, x, probe)
        return found

    def likelihood_calls(self, wanted: LikelihoodConfig) -> dict[str, int]:
        """One a term of the bound, and two for each step of the ODE."""
        calls = {"bound": self._terms(wanted)}
        if wanted.ode_steps is not None:
            calls["ode"] = 2 * (min(wanted.ode_steps, self.schedule.timesteps) - 1)
        return calls

    def _terms(self, wanted: LikelihoodConfig) -> int:
        return min(wanted.terms or self.schedule.timesteps, self.schedule.timesteps)

    def network_calls(self, variant: SamplerConfig) -> int:
        """One a step, of most samplers."""
        return variant.network_calls(self.schedule.timesteps)

    def label(self, variant: SamplerConfig) -> str:
        """The sampler's name, steps and keys."""
        return variant.label(variant.steps or self.schedule.timesteps)


def _telling(network: Callable[..., Tensor], on_call: Callable[[], object]) -> Callable[..., Tensor]:
    """The network that tells after every call."""

    def call(*inputs: Tensor) -> Tensor:
        output = network(*inputs)
        on_call()
        return output

    return call
