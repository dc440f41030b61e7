"""Schemas of the diffusion model: noise schedule, what the network predicts, samplers.

The formulas are in `diffexp.diffusion`; here are their parameters, defaults and ranges.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from diffexp.config.fields import number
from diffexp.config.models import MODELS, ModelConfig
from diffexp.config.networks import NetworkConfig, UNetConfig
from diffexp.config.objectives import UniformWeighting, WeightingConfig
from diffexp.config.registry import Choice, Registry

if TYPE_CHECKING:
    from diffexp.config.experiment import Experiment

# Imported by name in the builders' strings below; a constant so that a moved module is one change.
_SCHEDULES = "diffexp.diffusion.schedules"
_SAMPLERS = "diffexp.diffusion.samplers"
_SOLVERS = "diffexp.diffusion.solvers"

Rescale = Literal["none", "1000/T"]
Prediction = Literal["epsilon", "x0", "v", "scaled_epsilon", "step_epsilon"]
Spacing = Literal["leading", "trailing", "linspace", "quadratic", "quadratic-0.8", "karras", "logsnr"]


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
        label_dropout: share of the images whose label is withheld in training, as guidance needs.
    """

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

    def problems(self, experiment: "Experiment") -> Iterator[tuple[str, str]]:
        if self.schedule.zero_terminal_snr and self.prediction not in ("x0", "v"):
            yield (
                "prediction",
                f"must be v or x0 with schedule.zero_terminal_snr, not {self.prediction}",
            )
        if self.loss == "vlb" and not isinstance(self.weighting, UniformWeighting):
            yield (
                "weighting",
                f"must be uniform with loss: vlb, which has its own weights, not {self.weighting.name}",
            )


# --- samplers ------------------------------------------------------------------------------------


@dataclass
class SamplerConfig(Choice):
    """A sampler over a path of timesteps.

    Keys:
        steps: how many of the T timesteps are visited; null visits all.
        spacing: which ones.
        clip: clip x̂0 to [-1, 1] at every step, and derive ε̂ from it again.
        clip_quantile: clip each image to this quantile of its |x̂0| instead, where that exceeds 1, and divide by it
            (dynamic thresholding); null clips to [-1, 1].
        class_label: the class of all images, of a model with classes; null gives image i class i mod classes.
        guidance: w of ε̂(none) + w (ε̂(class) - ε̂(none)): 1 is the class alone, 0 no class; others call the network
            twice.
        guidance_interval: the steps that are guided, as shares of the path: 0 is the data, 1 the noise.
    """

    steps: int | None = number(None, at_least=1)
    spacing: Spacing = "leading"
    clip: bool = True
    clip_quantile: float | None = number(None, above=0, at_most=1)

    class_label: int | None = number(None, at_least=0)
    guidance: float = number(1.0, at_least=0)
    guidance_interval: list[float] = number([0.0, 1.0], at_least=0, at_most=1)

    def network_calls(self, timesteps: int) -> int:
        """How many calls of the network one batch takes, of a model with T timesteps."""
        return (self.steps or timesteps) + sum(self.guided_steps(timesteps))

    def guided_steps(self, timesteps: int) -> list[bool]:
        """Which steps of the path, from the noise to the data, call the network twice."""
        steps, (low, high) = self.steps or timesteps, self.guidance_interval
        if self.guidance in (0, 1):
            return [False] * steps
        return [low <= 1 - (step + 0.5) / steps <= high for step in range(steps)]

    def label(self, steps: int | None = None) -> str:
        """A short text that tells everything about the sampler: ddim-50-eta0.2-quadratic.

        Args:
            steps: how many it takes; None leaves them out.
        """
        parts = [self.name, *([] if steps is None else [str(steps)])]
        for key in SAMPLERS.own_fields(type(self)):
            value = getattr(self, key)
            if isinstance(value, bool):
                parts += [key] if value else []
            elif isinstance(value, str):
                parts.append(value)
            else:
                parts.append(f"{key}{format(value, '.12g') if isinstance(value, (int, float)) else value}")
        parts += [] if self.spacing == "leading" else [self.spacing]
        parts += [] if self.clip else ["unclipped"]
        parts += [] if self.class_label is None else [f"class{self.class_label}"]
        if self.guidance != 1:
            whole = self.guidance_interval == [0, 1]
            interval = "" if whole else "_{:.12g}_{:.12g}".format(*self.guidance_interval)
            parts.append(f"cfg{self.guidance:.12g}{interval}")
        parts += [] if self.clip_quantile is None else [f"clip_quantile{self.clip_quantile:.12g}"]
        return "-".join(parts)

    def problems(self, experiment: "Experiment") -> Iterator[tuple[str, str]]:
        model = experiment.model
        if isinstance(model, DiffusionConfig) and self.steps is not None and self.steps > model.timesteps:
            yield (
                "steps",
                f"{self.steps} steps cannot be taken out of model.timesteps = {model.timesteps}",
            )
        classes = getattr(model, "classes", None)
        if classes is None and (self.class_label is not None or self.guidance != 1):
            key = "guidance" if self.class_label is None else "class_label"
            yield key, "needs a model that was trained with model.classes"
        elif self.class_label is not None and self.class_label >= (classes or 0):
            yield "class_label", f"must be below model.classes = {classes}, not {self.class_label}"
        if len(self.guidance_interval) != 2 or self.guidance_interval[0] > self.guidance_interval[1]:
            yield "guidance_interval", f"must be two numbers, the lower first, not {self.guidance_interval}"
        if self.clip_quantile is not None and not self.clip:
            yield "clip_quantile", "needs clip: true"


SAMPLERS = Registry("sampler", SamplerConfig)


@SAMPLERS.register("ddpm", f"{_SAMPLERS}:DDPM")
@dataclass
class DDPMConfig(SamplerConfig):
    """Ancestral sampling (Ho et al. 2020). `variance` is that of the noise added at each step."""

    name: str = "ddpm"
    variance: Literal["fixed_small", "fixed_large", "none", "learned"] = "fixed_large"

    def problems(self, experiment: "Experiment") -> Iterator[tuple[str, str]]:
        yield from super().problems(experiment)
        if self.variance == "learned" and getattr(experiment.model, "loss", "simple") == "simple":
            yield "variance", "was not learned: that takes a training with model.loss: hybrid or vlb"


@SAMPLERS.register("ddim", f"{_SAMPLERS}:DDIM")
@dataclass
class DDIMConfig(SamplerConfig):
    """Song et al. 2021. `eta` scales the noise; `sigma_hat` takes the paper's larger σ̂ (with eta: 1)."""

    name: str = "ddim"
    eta: float = number(0.0, at_least=0, at_most=1)
    sigma_hat: bool = False

    def problems(self, experiment: "Experiment") -> Iterator[tuple[str, str]]:
        yield from super().problems(experiment)
        if self.sigma_hat and self.eta != 1:
            yield "eta", f"must be 1 with sigma_hat: true (σ̂ goes with the mean of η = 1), not {self.eta}"


@SAMPLERS.register("dpmpp", f"{_SOLVERS}:DPMSolver")
@dataclass
class DPMSolverConfig(SamplerConfig):
    """DPM-Solver++ multistep (Lu et al. 2022): the "DPM++" of order 1, 2 or 3; `sde` adds noise, as "DPM++ SDE"."""

    name: str = "dpmpp"
    order: int = number(2, at_least=1, at_most=3)
    sde: bool = False


@SAMPLERS.register("unipc", f"{_SOLVERS}:UniPC")
@dataclass
class UniPCConfig(SamplerConfig):
    """UniPC multistep (Zhao et al. 2023); `order` is the predictor's, the error's is one above."""

    name: str = "unipc"
    order: int = number(2, at_least=1, at_most=3)


@SAMPLERS.register("heun", f"{_SOLVERS}:Heun")
@dataclass
class HeunConfig(SamplerConfig):
    """Heun's method (Karras et al. 2022): two network calls a step, one for the last."""

    name: str = "heun"

    def network_calls(self, timesteps: int) -> int:
        twice = self.guided_steps(timesteps)
        return 2 * super().network_calls(timesteps) - 1 - twice[0]
