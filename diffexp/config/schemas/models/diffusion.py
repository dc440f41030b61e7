"""Schemas of the diffusion model: parameters, defaults and ranges of the formulas in `diffexp.diffusion`."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, cast

from diffexp.config.context import Context
from diffexp.config.fields import number
from diffexp.config.schemas.data import DataConfig
from diffexp.config.schemas.models.base import MODELS, ModelConfig
from diffexp.config.schemas.networks import NetworkConfig, UNetConfig
from diffexp.config.schemas.samplers import (
    DEFAULT_SPACING,
    DDIMConfig,
    DDPMConfig,
    DiffusionSamplerConfig,
    SamplerConfig,
    Spacing,
)
from diffexp.config.schemas.schedules import LinearScheduleConfig, ScheduleConfig
from diffexp.config.schemas.weightings import UniformWeightingConfig, WeightingConfig

Prediction = Literal["epsilon", "x0", "v", "scaled_epsilon", "step_epsilon"]


# --- noise schedules: β_1 … β_T ------------------------------------------------------------------


# --- the model -----------------------------------------------------------------------------------


@dataclass
class GradientVarianceConfig:
    """Variance of the gradient with respect to the noise, for the lecture notes' un-merged loss and the merged one.

    Keys:
        every: steps between two measurements.
        draws: draws of noise for the step's images; each draw takes two gradients.
    """

    every: int = number(500, at_least=1)
    draws: int = number(100, at_least=2)

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        if context.prediction != "step_epsilon":
            yield (
                "every",
                f"expected model.prediction: step_epsilon, the un-merged loss, got {context.prediction}. "
                "Set gradient_variance to null.",
            )


@MODELS.register("diffusion")
@dataclass
class DiffusionConfig(ModelConfig):
    """A denoising diffusion probabilistic model (Ho et al. 2020) in discrete time.

    Keys:
        timesteps: number T of timesteps.
        schedule: noise schedule β_1 … β_T.
        prediction: target of the network. step_epsilon is the noise of the last step only (the lecture notes' un-merged
            loss).
        loss: training loss. simple is the weighted squared error of the prediction, vlb the variational bound, hybrid
            both. With hybrid and vlb, the network also learns the variance of the steps; sample with variance learned.
        weighting: weights of the simple loss by timestep.
        timestep_sampling: distribution of the training timesteps. uniform draws each image's timestep independently;
            stratified draws one from each of as many equal parts as a step has images. importance draws timesteps with
            large losses more often and gives them smaller weights.
        classes: number of classes of the dataset, whose labels the network gets; null trains without labels.
        class_dropout_prob: fraction of the images whose label training withholds. With 0, diffexp refuses
            guidance_scale and bits per dimension, which need the model without labels.
        network: network of the model.
        gradient_variance: measurement of the variance of the gradient, for step_epsilon; null disables it.
    """

    sampler_base: ClassVar[type[SamplerConfig]] = DiffusionSamplerConfig
    default_table: ClassVar[str] = "evaluate/eta"
    logged: ClassVar[tuple[str, ...]] = ("loss_q[1-4]",)
    training_only: ClassVar[tuple[str, ...]] = (
        *("loss", "weighting", "timestep_sampling", "class_dropout_prob", "gradient_variance"),
    )
    held_out_levels: ClassVar[tuple[int, ...]] = tuple(range(9, -7, -1))  # of diffexp.diffusion.denoising_error
    held_out_calls: ClassVar[int | None] = 18
    FEW: ClassVar[int] = 50  # steps of the usual DDIM

    name: str = "diffusion"
    timesteps: int = number(1000, at_least=1, at_most=1_000_000)
    schedule: ScheduleConfig = field(default_factory=LinearScheduleConfig)
    prediction: Prediction = "epsilon"
    loss: Literal["simple", "hybrid", "vlb"] = "simple"
    weighting: WeightingConfig = field(default_factory=UniformWeightingConfig)
    timestep_sampling: Literal["uniform", "stratified", "importance"] = "uniform"
    classes: int | None = number(None, at_least=1, at_most=1_000_000)
    class_dropout_prob: float = number(0.1, at_least=0, at_most=1)
    network: NetworkConfig = field(default_factory=UNetConfig)
    gradient_variance: GradientVarianceConfig | None = None

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        if self.schedule.zero_terminal_snr and self.prediction not in ("x0", "v"):
            yield (
                "prediction",
                f"expected v or x0 with schedule.zero_terminal_snr, got {self.prediction}. Set model.prediction=v.",
            )
        if self.classes is not None and context.data_classes not in (None, self.classes):
            yield "classes", f"expected {context.data_classes}, as in the data, or null, got {self.classes}."
        if self.classes is not None and self.class_dropout_prob == 1:
            yield "class_dropout_prob", "expected a number < 1, got 1: no class would be trained. Set classes to null."
        if self.loss == "vlb" and not isinstance(self.weighting, UniformWeightingConfig):
            yield (
                "weighting",
                f"expected uniform with loss: vlb, which has its own weights, got {self.weighting.name}.",
            )

    def default_samplers(self) -> dict[str, SamplerConfig]:
        steps = min(self.FEW, self.timesteps)
        return {f"ddim-{steps}": DDIMConfig(steps=steps), "ddpm": DDPMConfig()}

    def resolve(self, sampler: SamplerConfig) -> SamplerConfig:
        sampler = cast(DiffusionSamplerConfig, sampler)
        return replace(sampler, steps=sampler.steps or self.timesteps)

    def label(self, sampler: SamplerConfig) -> str:
        sampler = cast(DiffusionSamplerConfig, sampler)
        return sampler.label(sampler.steps or self.timesteps)

    def network_calls(self, sampler: SamplerConfig, data: DataConfig) -> int:
        return cast(DiffusionSamplerConfig, sampler).network_calls(self.timesteps)

    def expand(
        self, sampler: SamplerConfig, steps: Sequence[int | None], spacings: Sequence[Spacing]
    ) -> Iterator[SamplerConfig]:
        """Yield the sampler at all given steps and spacings. A sampler's own steps and spacing take precedence."""
        sampler = cast(DiffusionSamplerConfig, sampler)
        given = sampler.spacing != DEFAULT_SPACING
        for spacing in [sampler.spacing] if given else spacings or [DEFAULT_SPACING]:
            for number_of in [sampler.steps] if sampler.steps is not None else steps or [None]:
                if (number_of or self.timesteps) < self.timesteps:
                    yield replace(sampler, steps=number_of, spacing=spacing)
                elif (number_of or self.timesteps) == self.timesteps:  # visits all timesteps with any spacing
                    yield replace(sampler, steps=number_of, spacing=DEFAULT_SPACING)

    def noise(self) -> tuple[ScheduleConfig, int]:
        return self.schedule, self.timesteps

    def callbacks(self) -> dict[str, dict[str, Any]]:
        wanted = self.gradient_variance
        return {} if wanted is None else {"diffexp.callbacks.gradient_variance:GradientVariance": vars(wanted)}

    def skipped_steps(self, steps: Iterable[int | None]) -> str | None:
        above = [str(each) for each in steps if each is not None and each > self.timesteps]
        return f"skipped {', '.join(above)}: more than T = {self.timesteps}" if above else None
