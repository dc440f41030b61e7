"""Schemas of the samplers of diffusion models. The formulas are in `diffexp.diffusion`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from diffexp.config.fields import number
from diffexp.config.variants import DEFAULT_SPACING, STARTING_LATE, Spacing, VariantConfig
from diffexp.config.variants import SAMPLERS as SAMPLERS  # plugins of samplers take both from here

if TYPE_CHECKING:
    from diffexp.config.experiment import Experiment

# Imported by name in the builders' strings below; a constant so that a moved module is one change.
_SAMPLERS = "diffexp.diffusion.samplers"
_SOLVERS = "diffexp.diffusion.solvers"


@SAMPLERS.family
@dataclass
class SamplerConfig(VariantConfig):
    """A sampler of a diffusion model, over a path of timesteps.

    Keys:
        steps: how many of the T timesteps are visited; null visits all.
        spacing: which ones. arctan ends at T-1, but at the first timestep with √ᾱ ≤ 0.02 for heun, and where clip is
            false and the model predicts ε: both multiply errors of the network by 1/√ᾱ.
        clip: clip x̂0 to [-1, 1] at every step, and derive ε̂ from it again.
        clip_quantile: clip each image to this quantile of its |x̂0| instead, where that exceeds 1, and divide by it
            (dynamic thresholding); null clips to [-1, 1].
        class_label: the class of all images, of a model with classes; null gives image i class i mod classes.
        guidance: w of ε̂(none) + w (ε̂(class) - ε̂(none)): 1 is the class alone, 0 no class; others call the network
            twice.
        guidance_interval: the steps that are guided, as shares of the path: 0 is the data, 1 the noise.
    """

    # whether it is in s = √(1-ᾱ)/√ᾱ that steps are taken, so that a first one from a large s multiplies errors
    integrates_over_noise_to_signal: ClassVar[bool] = False

    steps: int | None = number(None, at_least=1)
    spacing: Spacing = DEFAULT_SPACING
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

    def starts_late(self, timesteps: int) -> bool:
        """Whether the path starts below T-1, of a model with T timesteps."""
        return self.spacing in STARTING_LATE and self.steps not in (None, timesteps)

    def label(self, steps: int | None = None) -> str:
        """A short text that tells everything about the sampler: ddim-50-eta0.2-quadratic.

        Args:
            steps: how many it takes; None leaves them out.
        """
        parts = [self.name, *([] if steps is None else [str(steps)]), *self.own_parts()]
        parts += [] if self.spacing == DEFAULT_SPACING else [self.spacing]
        parts += [] if self.clip else ["unclipped"]
        parts += [] if self.class_label is None else [f"class{self.class_label}"]
        if self.guidance != 1:
            whole = self.guidance_interval == [0, 1]
            interval = "" if whole else "_{:.12g}_{:.12g}".format(*self.guidance_interval)
            parts.append(f"cfg{self.guidance:.12g}{interval}")
        parts += [] if self.clip_quantile is None else [f"clip_quantile{self.clip_quantile:.12g}"]
        return "-".join(parts)

    def brief(self) -> tuple[str, ...]:
        return (self.name, str(self.steps or "all"))

    def plain(self) -> "SamplerConfig":
        return type(self)(steps=self.steps)

    def columns(self) -> dict[str, Any]:
        return {"spacing": self.spacing, "clip": self.clip}

    def problems(self, experiment: "Experiment") -> Iterator[tuple[str, str]]:
        yield from super().problems(experiment)
        model = experiment.model
        timesteps = getattr(model, "timesteps", None)
        if timesteps is not None and self.steps is not None and self.steps > timesteps:
            yield "steps", f"{self.steps} steps cannot be taken out of model.timesteps = {timesteps}"
        noise = model.noise()
        if noise is not None and noise[0].zero_terminal_snr and self.starts_late(noise[1]):
            yield (
                "spacing",
                f"expected a path that starts at T-1, as schedule.zero_terminal_snr requires, got {self.spacing}. "
                f"Use {DEFAULT_SPACING} or trailing",
            )
        if self.clip and not model.bounded:
            yield "clip", "must be false: what this model's samplers work on does not lie in [-1, 1]"
        classes = getattr(model, "classes", None)
        if classes is None and (self.class_label is not None or self.guidance != 1):
            key = "guidance" if self.class_label is None else "class_label"
            yield key, "needs a model that was trained with model.classes"
        elif classes is not None and self.guidance != 1 and getattr(model, "label_dropout", None) == 0:
            yield (
                "guidance",
                f"expected 1, got {self.guidance:g}: with model.label_dropout = 0 no image counted as of no class. "
                "Train with label_dropout above 0",
            )
        elif self.class_label is not None and self.class_label >= (classes or 0):
            yield "class_label", f"must be below model.classes = {classes}, not {self.class_label}"
        if len(self.guidance_interval) != 2 or self.guidance_interval[0] > self.guidance_interval[1]:
            yield "guidance_interval", f"must be two numbers, the lower first, not {self.guidance_interval}"
        if self.clip_quantile is not None and not self.clip:
            yield "clip_quantile", "needs clip: true"


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
    """DPM-Solver++ multistep (Lu et al. 2022): the "DPM++" of order 1, 2 or 3; `sde` adds noise, as "DPM++ SDE".

    Keys:
        order: 3 is used in steps of at most 0.7 in log(√ᾱ/√(1-ᾱ)), 0.35 with sde; longer ones take 2.
    """

    name: str = "dpmpp"
    order: int = number(2, at_least=1, at_most=3)
    sde: bool = False


@SAMPLERS.register("unipc", f"{_SOLVERS}:UniPC")
@dataclass
class UniPCConfig(SamplerConfig):
    """UniPC multistep (Zhao et al. 2023).

    Keys:
        order: of the predictor; that of the error is one above. 3 is used in steps of at most 0.7 in
            log(√ᾱ/√(1-ᾱ)); longer ones take 2.
    """

    name: str = "unipc"
    order: int = number(2, at_least=1, at_most=3)


@SAMPLERS.register("heun", f"{_SOLVERS}:Heun")
@dataclass
class HeunConfig(SamplerConfig):
    """Heun's method (Karras et al. 2022): two network calls a step, one for the last."""

    integrates_over_noise_to_signal: ClassVar[bool] = True

    name: str = "heun"

    def network_calls(self, timesteps: int) -> int:
        twice = self.guided_steps(timesteps)
        return 2 * super().network_calls(timesteps) - 1 - twice[0]
