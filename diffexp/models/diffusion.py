"""Denoising diffusion models: network, schedule, loss and samplers as a LightningModule (Ho et al. 2020)."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn

from diffexp.config.schemas.networks import NETWORKS, NetworkConfig
from diffexp.config.schemas.requests import LikelihoodConfig
from diffexp.config.schemas.samplers import DEFAULT_SPACING, SAMPLERS, DiffusionSamplerConfig
from diffexp.config.schemas.schedules import ScheduleConfig
from diffexp.config.schemas.weightings import WEIGHTINGS, WeightingConfig
from diffexp.data.images import to_float
from diffexp.diffusion.denoising_error import DenoisingError
from diffexp.diffusion.guidance import LabelledNetwork, guided, labelled
from diffexp.diffusion.objectives import LossName, Objective
from diffexp.diffusion.paths import Path, timestep_path
from diffexp.diffusion.predictions import Denoiser, Prediction, clipped
from diffexp.diffusion.samplers.base import SamplerState
from diffexp.diffusion.schedules import LITTLE_SIGNAL, MUCH_SIGNAL, Schedule
from diffexp.diffusion.timesteps import ImportanceSampler, StratifiedSampler, TimestepSampler, UniformSampler
from diffexp.errors import UserError
from diffexp.models import diffusion_likelihood
from diffexp.models.base import HeldOutLoss, NoiseOfShape, OnCall
from diffexp.models.batch import Batch
from diffexp.models.compile import Compiled
from diffexp.models.cuda_graphs import CUDAGraphs
from diffexp.models.loss_meter import LossByTimestep, PerSampleLoss
from diffexp.models.schedule import build_schedule, warn_of_signal
from diffexp.models.training_module import TrainingModule
from diffexp.models.training_noise import TrainingNoise, TrainingNoiseSampler
from diffexp.models.wrapped_network import in_bfloat16, with_callback
from diffexp.rng import DrawsAhead, PerSampleNoise, RandomNumbers, derive_seed
from diffexp.system.devices import float64_device

log = logging.getLogger(__name__)

_TIMESTEPS: dict[str, Callable[[int], TimestepSampler]] = {
    "uniform": UniformSampler,
    "stratified": StratifiedSampler,
    "importance": ImportanceSampler,
}
_SMALLEST = 1e-12  # floor of an SNR, to avoid division by 0


class DiffusionModule(TrainingModule):
    """Learns to predict a target from x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε at random t.

    Training minimises an `Objective` and logs the unweighted error of the prediction. The notation is that of
    `diffexp.diffusion`.

    Args:
        image_shape: (C, H, W).
        network: (x_t (B, C, H, W), indices t (B,)) → (B, C, H, W), or (B, 2C, H, W) if the loss is not "simple".
        schedule: the noise schedule.
        prediction: what the network predicts, one of `diffexp.diffusion.predictions.PREDICTIONS`.
        loss: "simple", "hybrid" or "vlb", see `Objective`. "hybrid" and "vlb" learn the variance.
        weights: weights of the simple loss by timestep, shape (T,); None is 1.
        timesteps: sampler of the training timesteps; None is `UniformSampler`.
        classes: number of classes K; the network is then a `LabelledNetwork`. None is an unconditional model.
        class_dropout_prob: probability in training that an image has the null label, in [0, 1].
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        network: nn.Module,
        schedule: Schedule,
        prediction: str = "epsilon",
        *,
        loss: LossName = "simple",
        weights: Tensor | None = None,
        timesteps: TimestepSampler | None = None,
        classes: int | None = None,
        class_dropout_prob: float = 0.1,
    ) -> None:
        super().__init__(image_shape, LossByTimestep(schedule.timesteps), classes)
        self.x_shape = image_shape
        self.network = network
        self.schedule = schedule
        self.prediction = Prediction(prediction, schedule, learned_variance=loss != "simple")
        self.losses: LossByTimestep
        self.objective = Objective(self.prediction, loss, weights)
        twice = prediction == "step_epsilon"
        self.timesteps = timesteps or UniformSampler(schedule.timesteps)
        self.training_noise = TrainingNoiseSampler(self.timesteps, twice, classes, class_dropout_prob)
        self._compiled: dict[str, Compiled] = {}
        self.graphs: CUDAGraphs | None = None
        self._seen: list[Tensor] = []
        self._warned_of: set[str] = set()

    @classmethod
    def from_config(
        cls,
        image_shape: tuple[int, int, int],
        *,
        timesteps: int,
        schedule: ScheduleConfig,
        prediction: str,
        loss: LossName,
        weighting: WeightingConfig,
        timestep_sampling: str,
        classes: int | None,
        class_dropout_prob: float,
        network: NetworkConfig,
        gradient_variance: object = None,
        **more: Any,
    ) -> Self:
        """Build the module of a config, with weights drawn from torch's default generator.

        Args:
            image_shape: (C, H, W) of the network's input.
            more: further arguments of a subclass.

        The other arguments are the keys of `diffexp.config.schemas.models.diffusion.DiffusionConfig`.

        Raises:
            UserError: if the schedule is invalid for its T.
        """
        built = build_schedule(schedule, timesteps)
        warn_of_signal(schedule, built)
        of_network = {} if loss == "simple" else {"out_channels": 2 * image_shape[0]}
        of_network |= {} if classes is None else {"classes": classes}
        built_network = NETWORKS.build(network, image_shape, **of_network)
        try:
            weights = WEIGHTINGS.build(weighting, built.alphas_cumprod / (1 - built.alphas_cumprod))
            if weights is not None:
                weights = weights / Prediction(prediction, built).error_of_x0().clamp(min=_SMALLEST)
            return cls(
                image_shape,
                built_network,
                built,
                prediction,
                loss=loss,
                weights=weights,
                timesteps=_TIMESTEPS[timestep_sampling](timesteps),
                classes=classes,
                class_dropout_prob=class_dropout_prob,
                **more,
            )
        except ValueError as error:
            raise UserError(f"model: {error}") from error

    def compile_network(self, *, training: bool = False, sampling: bool = False) -> None:
        """Compile the network at its next call; see `Compiled`."""
        if training:
            self._compiled["training"] = Compiled(self.network)
        if sampling:
            self._compiled["sampling"] = Compiled(self.network, graphs=True)

    def use_cuda_graphs(self) -> None:
        """Replay CUDA graphs of the network in sampling; `graphs` holds them."""
        self.graphs = CUDAGraphs(self.network)

    @contextmanager
    def in_bfloat16(self) -> Iterator[None]:
        """Sample with bfloat16 weights within this context; sampling steps and the network's buffers stay float32."""
        parameters = list(self.network.parameters())
        full = [parameter.data for parameter in parameters]
        for parameter in parameters:
            parameter.data = parameter.data.bfloat16()
        try:
            yield
        finally:
            for parameter, weights in zip(parameters, full, strict=True):
                parameter.data = weights

    # --- training

    def loss(self, x0: Tensor, noise: TrainingNoise) -> tuple[Tensor, Tensor]:
        """Compute (error of the prediction, loss to minimise) of images x_0, both (B,); see `Objective.losses`."""
        network: Any = self._compiled.get("training", self.network)
        if noise.labels is not None:
            network = labelled(network, noise.labels)
        return self.objective.losses(network, x0, noise.noise, noise.t, noise.other)

    def per_sample_loss(self, batch: Batch) -> PerSampleLoss:
        """Compute the objective of each image at its sampled timestep; the error of the prediction is logged."""
        noise = self.sample_training_noise(batch.images, batch.labels)
        error, minimized = self.loss(batch.images, noise)
        return PerSampleLoss(minimized, {"loss": error}, noise.t, noise.weights)

    def after_loss(self, loss: PerSampleLoss) -> None:
        """Update the importance sampler with the losses of the step."""
        if isinstance(self.timesteps, ImportanceSampler):
            assert loss.t is not None
            self._learn(self.timesteps, loss.t, loss.minimized.detach())

    def sample_training_noise(self, images: Tensor, labels: Tensor | None = None) -> TrainingNoise:
        """Sample t, ε and dropped labels of this step for this process's images (B, C, H, W) and labels (B,)."""
        size, shape = len(images), images.shape[1:]
        twice = self.training_noise.second_noise
        other = self.draw(size, shape, "second noise").normals if twice else None
        seed = derive_seed("timesteps", self.seed, self._step)
        return self.training_noise.sample(self.draw(size, shape), other, labels, self.parts * size, seed)

    def _learn(self, timesteps: ImportanceSampler, t: Tensor, losses: Tensor) -> None:
        """At the end of a step, add the losses of all its parts to the sampler, in the order of the images."""
        device = float64_device(t.device)
        self._seen.append(torch.stack([each.to(device).double() for each in (t, losses)]))
        if self.ends_step:
            gathered = self.trainer.strategy.all_gather(torch.stack(self._seen, dim=1))  # (2, accumulated, B) of each
            assert isinstance(gathered, Tensor)
            all_t, all_losses = gathered.reshape(-1, 2, len(self._seen), len(t)).permute(1, 2, 0, 3).flatten(1)
            timesteps.add(all_t.long(), all_losses)
            self._seen.clear()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save also the state of the importance sampler, which gives p_t."""
        super().on_save_checkpoint(checkpoint)
        if isinstance(self.timesteps, ImportanceSampler):
            checkpoint["timesteps"] = self.timesteps.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore also the state of the importance sampler."""
        super().on_load_checkpoint(checkpoint)
        if isinstance(self.timesteps, ImportanceSampler):
            self.timesteps.load(checkpoint["timesteps"])

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Release the memory of the CUDA graphs that sampling recorded."""
        if self.graphs is not None:
            self.graphs.release()

    # --- sampling

    @torch.no_grad()
    def trajectory(
        self, sampler: DiffusionSamplerConfig, noise: PerSampleNoise, on_call: Callable[[], object] | None = None
    ) -> Iterator[SamplerState]:
        """Sample step by step, yielding every intermediate state; see `diffexp.diffusion.samplers.base.Sampler`.

        Args:
            sampler: config of the sampler.
            noise: gives x_T and the z of each step.
            on_call: called after every network call.
        """
        schedule, path = self.schedule, self._path(sampler)
        self._warn_of_the_start(sampler, path[0][0])
        network: Any = self._compiled.get("sampling") or self.graphs or self.network
        weights = next(self.network.parameters(), None)
        if weights is not None and weights.dtype == torch.bfloat16:
            network = in_bfloat16(network)
        if on_call is not None:
            network = with_callback(network, on_call)
        if self.classes is None:
            denoiser = self.prediction.denoiser(network)
        else:
            denoiser = self._of_classes(network, self.classes, sampler, path, noise.indices)
        if sampler.clip_sample:
            denoiser = clipped(denoiser, schedule, sampler.dynamic_thresholding_ratio)
        yield from SAMPLERS.build(sampler).trajectory(denoiser, schedule, path, noise.draw(), noise.draw)

    def _path(self, sampler: DiffusionSamplerConfig) -> Path:
        """Return the path of a sampler, which starts at T-1.

        With the default spacing, a sampler that multiplies the network's errors by 1/√ᾱ starts where √ᾱ falls to
        `MUCH_SIGNAL`.
        """
        alphas = self.schedule.alphas_cumprod.tolist()
        if sampler.spacing == DEFAULT_SPACING and sampler.steps is not None and self._multiplies_errors(sampler):
            noise_alone = next((t for t, each in enumerate(alphas) if each**0.5 <= MUCH_SIGNAL), len(alphas) - 1)
            alphas = alphas[: max(noise_alone + 1, sampler.steps)]
        return timestep_path(len(alphas), sampler.steps, sampler.spacing, alphas)

    def _multiplies_errors(self, sampler: DiffusionSamplerConfig) -> bool:
        """Return whether the first step of a path multiplies the network's error by 1/√ᾱ."""
        unbounded = self.prediction.divides and not sampler.clip_sample
        return self.schedule.terminal_signal > 0 and (unbounded or sampler.integrates_over_noise_to_signal)

    def _warn_of_the_start(self, sampler: DiffusionSamplerConfig, start: int) -> None:
        """Warn once for each sampler whose path starts with too much signal, or with too little for that sampler."""
        signal, label = self.schedule.alpha_bar(start) ** 0.5, self.label(sampler)
        if signal > MUCH_SIGNAL:
            wanted = f"√ᾱ ≤ {MUCH_SIGNAL:g} where the path starts, because x_T is pure noise"
            at_the_end = start == self.schedule.timesteps - 1
            way_out = "a schedule that leaves less signal in x_T" if at_the_end else "spacing: arctan or trailing"
        elif signal < LITTLE_SIGNAL and self._multiplies_errors(sampler):
            wanted = f"√ᾱ ≥ {LITTLE_SIGNAL:g} where the path starts, because 1/√ᾱ multiplies the network's errors"
            way_out = "spacing: arctan and fewer than T steps"
        else:
            return
        if label not in self._warned_of:
            self._warned_of.add(label)
            log.warning(
                "sampler %s: expected %s, got √ᾱ = %.3g at t = %d. Use %s.", label, wanted, signal, start, way_out
            )

    def _of_classes(
        self,
        network: LabelledNetwork,
        classes: int,
        sampler: DiffusionSamplerConfig,
        path: Path,
        indices: Sequence[int],
    ) -> Denoiser:
        """Return the denoiser for the classes of these images, with the sampler's guidance."""
        if sampler.guidance_scale != 1:
            self._require_no_class(f"guidance_scale: expected 1, got {sampler.guidance_scale:g}")
        number = sampler.class_number(self.class_names)
        wanted = [index % classes if number is None else number for index in indices]
        labels = torch.tensor(wanted, device=self.device)
        twice = sampler.guided_steps(self.schedule.timesteps)
        active = {t for (t, _), guides in zip(path, twice, strict=True) if guides}
        of_class, of_none = (
            self.prediction.denoiser(labelled(network, each)) for each in (labels, torch.full_like(labels, classes))
        )
        return guided(of_class, of_none, sampler.guidance_scale, active.__contains__)

    def _require_no_class(self, problem: str) -> None:
        """Check that training includes the null label.

        Raises:
            UserError: if class_dropout_prob is 0; the message begins with `problem`.
        """
        if self.training_noise.class_dropout_prob == 0:
            raise UserError(f"{problem}: class_dropout_prob is 0, so the null label was not trained.")

    def sample(
        self,
        sampler: DiffusionSamplerConfig,
        indices: Sequence[int],
        seed: int,
        on_call: Callable[[], object] | None = None,
    ) -> Tensor:
        """Draw images with a sampler; see `GenerativeModel.sample`."""
        noise = PerSampleNoise(seed, indices, self.x_shape, self.device)
        with self.as_trained():
            for state in self.trajectory(sampler, noise, on_call):
                images = state.x
        return images

    def estimate_bits(
        self, images: Tensor, noise: NoiseOfShape, wanted: LikelihoodConfig, on_call: OnCall | None
    ) -> dict[str, Tensor]:
        """Estimate by the variational bound ("bound") and the probability-flow ODE ("ode"), with the null label.

        See `GenerativeModel.bits_per_dim`.
        """
        wanted = self.resolved_likelihood(wanted)
        self.network.eval()
        network: Any = self.network if on_call is None else with_callback(self.network, on_call)
        if self.classes is not None:
            self._require_no_class("bits per dimension: expected a model trained with the null label too")
            network = labelled(network, torch.full((len(images),), self.classes, device=self.device))
        draw = noise(self.x_shape).draw
        return diffusion_likelihood.estimate(network, self.prediction, self.schedule, to_float(images), draw, wanted)

    def held_out_loss(
        self,
        images: Tensor,
        labels: Tensor | None,
        indices: Sequence[int],
        seed: int,
        on_call: OnCall | None = None,
    ) -> HeldOutLoss:
        """Measure the denoising error at fixed levels and the bound, with the images' own labels.

        See `diffexp.diffusion.denoising_error` and `GenerativeModel.held_out_loss`.
        """
        network: Any = self.network if on_call is None else with_callback(self.network, on_call)
        if self.classes is not None:
            assert labels is not None
            network = labelled(network, labels)
        numbers = RandomNumbers(derive_seed("held-out loss", seed), torch.tensor(list(indices), device=self.device))
        draw = DrawsAhead(numbers, self.x_shape).at
        with self.as_trained():
            errors, bits = diffusion_likelihood.held_out(
                network, self.prediction, self._denoising_error, to_float(images), draw
            )
        return HeldOutLoss(bits, errors)

    @cached_property
    def _denoising_error(self) -> DenoisingError:
        return DenoisingError(self.schedule)  # its weights are those of the schedule alone

    def resolved_likelihood(self, wanted: LikelihoodConfig) -> LikelihoodConfig:
        """Return the options with their defaults; see `diffusion_likelihood.resolve`."""
        learned = self.prediction.learned_variance
        return diffusion_likelihood.resolve(wanted, self.schedule.timesteps, learned_variance=learned)

    def likelihood_calls(self, wanted: LikelihoodConfig) -> dict[str, int]:
        """Return the network calls of each estimate; see `diffusion_likelihood.calls`."""
        return diffusion_likelihood.calls(self.resolved_likelihood(wanted))

    def network_calls(self, sampler: DiffusionSamplerConfig) -> int:
        """Return the network calls of the sampler: one a step, for most samplers."""
        return sampler.network_calls(self.schedule.timesteps)

    def label(self, sampler: DiffusionSamplerConfig) -> str:
        """Return the sampler's name, steps and keys, such as "ddim-50-eta0"."""
        return sampler.label(sampler.steps or self.schedule.timesteps)
