"""Schemas of the diffusion model: noise schedule, what the network predicts.

The formulas are in `diffexp.diffusion`; here are their parameters, defaults and ranges.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from diffexp.config.data import DataConfig
from diffexp.config.fields import number
from diffexp.config.models import MODELS, ModelConfig
from diffexp.config.networks import NetworkConfig, UNetConfig
from diffexp.config.objectives import UniformWeighting, WeightingConfig
from diffexp.config.registry import Choice, Registry
from diffexp.config.samplers import DDIMConfig, DDPMConfig, SamplerConfig
from diffexp.config.variants import DEFAULT_SPACING, Spacing, VariantConfig

if TYPE_CHECKING:
    from diffexp.config.experiment import Experiment

# Imported by name in the builders' strings below; a constant so that a moved module is one change.
_SCHEDULES = "diffexp.diffusion.schedules"

Rescale = Literal["none", "1000/T"]
Prediction = Literal["epsilon", "x0", "v", "scaled_epsilon", "step_epsilon"]


# --- noise schedules: β_1 … β_T ------------------------------------------------------------------


@dataclass
class ScheduleConfig(Choice):
    """A noise schedule. Its builder gets T and returns β, a float64 tensor of shape (T,).

    Keys:
        zero_terminal_snr: shift √ᾱ so that it ends at 0 and x_T is pure noise (Lin et al. 2024); for v and x0.
    """

    zero_terminal_snr: bool = False


SCHEDULES = Registry("schedule", ScheduleConfig)


@dataclass
class _BetaRange(ScheduleConfig):
    """From beta_start to beta_end, meant for T = 1000; `rescale` says what another T does to them."""

    beta_start: float = number(1e-4, above=0, below=1)
    beta_end: float = number(0.02, above=0, below=1)
    rescale: Rescale = "none"

    def problems(self, experiment: "Experiment") -> Iterator[tuple[str, str]]:
        if self.beta_end < self.beta_start:
            yield "beta_end", f"must not be below beta_start = {self.beta_start}"
        yield from _rescale_problems(self.rescale, self.beta_end, experiment)


def _rescale_problems(rescale: str, beta_end: float, experiment: "Experiment") -> Iterator[tuple[str, str]]:
    timesteps = getattr(experiment.model, "timesteps", 1000)
    if rescale == "1000/T" and beta_end * 1000 / timesteps >= 1:
        beta = beta_end * 1000 / timesteps
        yield "rescale", f"makes the last β {beta:g} at model.timesteps = {timesteps}; it must stay below 1"


@SCHEDULES.register("linear", f"{_SCHEDULES}:linear")
@dataclass
class LinearSchedule(_BetaRange):
    """β equally spaced (Ho et al. 2020)."""

    name: str = "linear"


@SCHEDULES.register("scaled_linear", f"{_SCHEDULES}:scaled_linear")
@dataclass
class ScaledLinearSchedule(_BetaRange):
    """√β equally spaced (latent diffusion)."""

    name: str = "scaled_linear"


@SCHEDULES.register("sigmoid", f"{_SCHEDULES}:sigmoid")
@dataclass
class SigmoidSchedule(_BetaRange):
    """β along a sigmoid (GeoDiff)."""

    name: str = "sigmoid"


@SCHEDULES.register("proportional", f"{_SCHEDULES}:proportional")
@dataclass
class ProportionalSchedule(ScheduleConfig):
    """β_t = beta_end · t/T (the lecture notes)."""

    name: str = "proportional"
    beta_end: float = number(0.02, above=0, below=1)
    rescale: Rescale = "none"

    def problems(self, experiment: "Experiment") -> Iterator[tuple[str, str]]:
        yield from _rescale_problems(self.rescale, self.beta_end, experiment)


@SCHEDULES.register("cosine", f"{_SCHEDULES}:cosine")
@dataclass
class CosineSchedule(ScheduleConfig):
    """ᾱ along a squared cosine (Nichol & Dhariwal 2021); a function of t/T, so any T fits."""

    name: str = "cosine"
    s: float = number(0.008, at_least=0)
    max_beta: float = number(0.999, above=0, below=1)


# --- the model -----------------------------------------------------------------------------------


@dataclass
class GradientVariance:
    """How much the gradient varies with the noise, of the lecture notes' un-merged loss and of the merged one.

    Keys:
        every: steps between two times.
        draws: of noise for the step's images, each of two gradients.
    """

    every: int = number(500, at_least=1)
    draws: int = number(100, at_least=2)

    def problems(self, experiment: "Experiment") -> Iterator[tuple[str, str]]:
        if getattr(experiment.model, "prediction", None) != "step_epsilon":
            yield "every", "is of model.prediction: step_epsilon, the un-merged loss"


@MODELS.register("diffusion", "diffexp.models.described:from_config")
@dataclass
class DiffusionConfig(ModelConfig):
    """A denoising diffusion model.

    Keys:
        prediction: what the network predicts; step_epsilon is the noise of the last step alone (the lecture notes'
            un-merged loss).
        loss: simple is the prediction's weighted error; with vlb, the variational bound, and hybrid, both, the network
            also learns the variance of the steps: sample with variance: learned.
        weighting: weights of the simple loss by timestep.
        timesteps_drawn: uniform draws each image's timestep on its own; stratified one from each of as many equal
            parts of them as a step has images; importance those with large losses more often, and weighs them less.
        classes: of the data, whose labels the network gets; null learns without labels.
        label_dropout: share of the images whose label is withheld in training. With 0, diffexp refuses guidance and
            bits per dimension, which need the model without labels.
    """

    variants: ClassVar[type[VariantConfig]] = SamplerConfig
    usual_table: ClassVar[str] = "evaluate/eta"
    logged: ClassVar[tuple[str, ...]] = ("loss_q[1-4]",)
    training_only: ClassVar[tuple[str, ...]] = (
        *("loss", "weighting", "timesteps_drawn", "label_dropout", "gradient_variance"),
    )
    FEW: ClassVar[int] = 50  # steps of the usual DDIM

    name: str = "diffusion"
    timesteps: int = number(1000, at_least=1)
    schedule: ScheduleConfig = field(default_factory=LinearSchedule)
    prediction: Prediction = "epsilon"
    loss: Literal["simple", "hybrid", "vlb"] = "simple"
    weighting: WeightingConfig = field(default_factory=UniformWeighting)
    timesteps_drawn: Literal["uniform", "stratified", "importance"] = "uniform"
    classes: int | None = number(None, at_least=1)
    label_dropout: float = number(0.1, at_least=0, at_most=1)
    network: NetworkConfig = field(default_factory=UNetConfig)
    gradient_variance: GradientVariance | None = None

    def problems(self, experiment: "Experiment") -> Iterator[tuple[str, str]]:
        if self.schedule.zero_terminal_snr and self.prediction not in ("x0", "v"):
            yield (
                "prediction",
                f"must be v or x0 with schedule.zero_terminal_snr, not {self.prediction}",
            )
        if self.classes is not None and self.label_dropout == 1:
            yield "label_dropout", "expected below 1, got 1: no class would be trained. Use classes: null"
        if self.loss == "vlb" and not isinstance(self.weighting, UniformWeighting):
            yield (
                "weighting",
                f"must be uniform with loss: vlb, which has its own weights, not {self.weighting.name}",
            )

    def usual_variants(self) -> dict[str, VariantConfig]:
        steps = min(self.FEW, self.timesteps)
        return {f"ddim-{steps}": DDIMConfig(steps=steps), "ddpm": DDPMConfig()}

    def resolved(self, variant: VariantConfig) -> VariantConfig:
        sampler = cast(SamplerConfig, variant)
        return replace(sampler, steps=sampler.steps or self.timesteps)

    def network_calls(self, variant: VariantConfig, data: DataConfig) -> int:
        return cast(SamplerConfig, variant).network_calls(self.timesteps)

    def cells(
        self, variant: VariantConfig, steps: Sequence[int | None], spacings: Sequence[Spacing]
    ) -> Iterator[VariantConfig]:
        """The sampler at all wanted steps and spacings; one with steps or a spacing of its own keeps them."""
        sampler = cast(SamplerConfig, variant)
        given = sampler.spacing != DEFAULT_SPACING
        for spacing in [sampler.spacing] if given else spacings or [DEFAULT_SPACING]:
            for number_of in [sampler.steps] if sampler.steps is not None else steps or [None]:
                if (number_of or self.timesteps) < self.timesteps:
                    yield replace(sampler, steps=number_of, spacing=spacing)
                elif (number_of or self.timesteps) == self.timesteps:  # all are visited, however they are spaced
                    yield replace(sampler, steps=number_of, spacing=DEFAULT_SPACING)

    def noise(self) -> tuple[ScheduleConfig, int]:
        return self.schedule, self.timesteps

    def callbacks(self) -> dict[str, dict[str, Any]]:
        wanted = self.gradient_variance
        return {} if wanted is None else {"diffexp.callbacks.gradient_variance:GradientVariance": vars(wanted)}

    def left_out(self, steps: Iterable[int | None]) -> str | None:
        above = [str(each) for each in steps if each is not None and each > self.timesteps]
        return f"{', '.join(above)} left out, being more than T = {self.timesteps}" if above else None
