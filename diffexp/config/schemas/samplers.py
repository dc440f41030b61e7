"""The group of samplers: what ``sampler: {name: …}`` chooses from. Each family of models has its own."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from diffexp.config.context import Context
from diffexp.config.fields import number
from diffexp.config.registry import Component, Registry

# Which of the timesteps are visited by a sampler that takes steps.
Spacing = Literal["arctan", "leading", "trailing", "linspace", "quadratic", "quadratic-0.8", "karras", "logsnr"]
DEFAULT_SPACING: Spacing = "arctan"  # docs/guides/solvers.md says why
# Those that do not start at T-1 if they take fewer than T steps.
STARTING_LATE: tuple[Spacing, ...] = ("leading", "quadratic-0.8")


def starts_late_problem(spacing: Spacing) -> str:
    """What is wrong with a spacing of `STARTING_LATE` on a schedule that ends in pure noise."""
    return (
        f"expected a path that starts at T-1, as schedule.zero_terminal_snr requires, got {spacing}. "
        f"Use {DEFAULT_SPACING} or trailing"
    )


@dataclass
class SamplerConfig(Component):
    """A way to draw samples. Which models know it, and what it costs, their `ModelConfig` says."""

    def label(self) -> str:
        """A short text that tells everything about it, for the names of metrics: prior-temperature0.7."""
        return "-".join([self.name, *self.own_parts()])

    def own_parts(self) -> list[str]:
        """What a label says of the keys that its schema adds to its family's."""
        parts: list[str] = []
        for key in SAMPLERS.own_fields(type(self)):
            value = getattr(self, key)
            if isinstance(value, bool):
                parts += [key] if value else []
            elif isinstance(value, str):
                parts.append(value)
            else:
                parts.append(f"{key}{format(value, '.12g') if isinstance(value, (int, float)) else value}")
        return parts

    def brief(self) -> tuple[str, ...]:
        """What names a file of its samples; the keys that `plain` leaves at their defaults are told beside it."""
        return (self.name,)

    def plain(self) -> "SamplerConfig":
        """The one of the same `brief` with all other keys at their defaults."""
        return type(self)()

    def columns(self) -> dict[str, Any]:
        """What a table of scores tells of it in columns of their own."""
        return {}

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        wanted = context.sampler_base
        if not isinstance(self, wanted):
            known = [name for name in SAMPLERS.names if issubclass(SAMPLERS.schema(name), wanted)]
            yield "name", f"{self.name} does not sample model.name = {context.model}; use {' or '.join(known)}"


SAMPLERS = Registry("sampler", SamplerConfig, "diffexp.diffusion.samplers.{name}:{schema}")


@SAMPLERS.register("prior")
@dataclass
class PriorConfig(SamplerConfig):
    """z from N(0, temperature² I), made into an image by one call: of gan, vae and flow.

    Keys:
        temperature: below 1, more usual images and fewer kinds of them.
    """

    name: str = "prior"
    temperature: float = number(1.0, at_least=0)


@SAMPLERS.register("ancestral")
@dataclass
class AncestralConfig(SamplerConfig):
    """Pixel after pixel, each from its distribution given those before: of autoregressive models.

    Keys:
        temperature: divides the log-probabilities; below 1, likelier pixels.
    """

    name: str = "ancestral"
    temperature: float = number(1.0, above=0)


@SAMPLERS.register_base
@dataclass
class DiffusionSamplerConfig(SamplerConfig):
    """A sampler of a diffusion model, over a path of timesteps.

    Keys:
        steps: how many of the T timesteps are visited; null visits all.
        spacing: which ones. arctan ends at T-1, but at the first timestep with √ᾱ ≤ 0.02 for heun, and where
            clip_sample is false and the model predicts ε: both multiply errors of the network by 1/√ᾱ.
        clip_sample: clip x̂0 to [-1, 1] at every step, and derive ε̂ from it again.
        dynamic_thresholding_ratio: clip each image to this quantile of its |x̂0| instead, where that exceeds 1, and
            divide by it (Saharia et al. 2022); null clips to [-1, 1].
        class_label: the class of all images, of a model with classes; null gives image i class i mod classes.
        guidance_scale: w of ε̂(none) + w (ε̂(class) - ε̂(none)): 1 is the class alone, 0 no class; others call the
            network twice.
        guidance_interval: the steps that are guided, as shares of the path: 0 is the data, 1 the noise.
    """

    # whether it is in s = √(1-ᾱ)/√ᾱ that steps are taken, so that a first one from a large s multiplies errors
    integrates_over_noise_to_signal: ClassVar[bool] = False

    steps: int | None = number(None, at_least=1)
    spacing: Spacing = DEFAULT_SPACING
    clip_sample: bool = True
    dynamic_thresholding_ratio: float | None = number(None, above=0, at_most=1)

    class_label: int | None = number(None, at_least=0)
    guidance_scale: float = number(1.0, at_least=0)
    guidance_interval: list[float] = number([0.0, 1.0], at_least=0, at_most=1)

    def network_calls(self, timesteps: int) -> int:
        """How many calls of the network one batch takes, of a model with T timesteps."""
        return (self.steps or timesteps) + sum(self.guided_steps(timesteps))

    def guided_steps(self, timesteps: int) -> list[bool]:
        """Which steps of the path, from the noise to the data, call the network twice."""
        steps, (low, high) = self.steps or timesteps, self.guidance_interval
        if self.guidance_scale in (0, 1):
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
        parts += [] if self.clip_sample else ["unclipped"]
        parts += [] if self.class_label is None else [f"class{self.class_label}"]
        if self.guidance_scale != 1:
            whole = self.guidance_interval == [0, 1]
            interval = "" if whole else "_{:.12g}_{:.12g}".format(*self.guidance_interval)
            parts.append(f"cfg{self.guidance_scale:.12g}{interval}")
        parts += (
            []
            if self.dynamic_thresholding_ratio is None
            else [f"dynamic_thresholding_ratio{self.dynamic_thresholding_ratio:.12g}"]
        )
        return "-".join(parts)

    def brief(self) -> tuple[str, ...]:
        return (self.name, str(self.steps or "all"))

    def plain(self) -> "SamplerConfig":
        return type(self)(steps=self.steps)

    def columns(self) -> dict[str, Any]:
        return {"spacing": self.spacing, "clip_sample": self.clip_sample}

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        yield from super().problems(context)
        timesteps, classes = context.timesteps, context.classes
        if timesteps is not None and self.steps is not None and self.steps > timesteps:
            yield "steps", f"{self.steps} steps cannot be taken out of model.timesteps = {timesteps}"
        if timesteps is not None and context.zero_terminal_snr and self.starts_late(timesteps):
            yield "spacing", starts_late_problem(self.spacing)
        if self.clip_sample and not context.bounded:
            yield "clip_sample", "must be false: what this model's samplers work on does not lie in [-1, 1]"
        if classes is None and (self.class_label is not None or self.guidance_scale != 1):
            key = "guidance_scale" if self.class_label is None else "class_label"
            yield key, "needs a model that was trained with model.classes"
        elif classes is not None and self.guidance_scale != 1 and context.class_dropout_prob == 0:
            yield (
                "guidance_scale",
                f"expected 1, got {self.guidance_scale:g}: with model.class_dropout_prob = 0 no image counted as of no "
                "class. Train with class_dropout_prob above 0",
            )
        elif self.class_label is not None and self.class_label >= (classes or 0):
            yield "class_label", f"must be below model.classes = {classes}, not {self.class_label}"
        if len(self.guidance_interval) != 2 or self.guidance_interval[0] > self.guidance_interval[1]:
            yield "guidance_interval", f"must be two numbers, the lower first, not {self.guidance_interval}"
        if self.dynamic_thresholding_ratio is not None and not self.clip_sample:
            yield "dynamic_thresholding_ratio", "needs clip_sample: true"


@SAMPLERS.register("ddpm")
@dataclass
class DDPMConfig(DiffusionSamplerConfig):
    """Ancestral sampling (Ho et al. 2020). `variance` is that of the noise added at each step."""

    name: str = "ddpm"
    variance: Literal["fixed_small", "fixed_large", "none", "learned"] = "fixed_large"

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        yield from super().problems(context)
        if self.variance == "learned" and not context.learned_variance:
            yield "variance", "was not learned: that takes a training with model.loss: hybrid or vlb"


@SAMPLERS.register("ddim")
@dataclass
class DDIMConfig(DiffusionSamplerConfig):
    """Song et al. 2021. `eta` scales the noise; `sigma_hat` takes the paper's larger σ̂ (with eta: 1)."""

    name: str = "ddim"
    eta: float = number(0.0, at_least=0, at_most=1)
    sigma_hat: bool = False

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        yield from super().problems(context)
        if self.sigma_hat and self.eta != 1:
            yield "eta", f"must be 1 with sigma_hat: true (σ̂ goes with the mean of η = 1), not {self.eta}"


@SAMPLERS.register("dpmpp")
@dataclass
class DPMSolverConfig(DiffusionSamplerConfig):
    """DPM-Solver++ multistep (Lu et al. 2022): the "DPM++" of order 1, 2 or 3; `sde` adds noise, as "DPM++ SDE".

    Keys:
        order: 3 is used in steps of at most 0.7 in log(√ᾱ/√(1-ᾱ)), 0.35 with sde; longer ones take 2.
    """

    name: str = "dpmpp"
    order: int = number(2, at_least=1, at_most=3)
    sde: bool = False


@SAMPLERS.register("unipc")
@dataclass
class UniPCConfig(DiffusionSamplerConfig):
    """UniPC multistep (Zhao et al. 2023).

    Keys:
        order: of the predictor; that of the error is one above. 3 is used in steps of at most 0.7 in
            log(√ᾱ/√(1-ᾱ)); longer ones take 2.
    """

    name: str = "unipc"
    order: int = number(2, at_least=1, at_most=3)


@SAMPLERS.register("heun")
@dataclass
class HeunConfig(DiffusionSamplerConfig):
    """Heun's method (Karras et al. 2022): two network calls a step, one for the last."""

    integrates_over_noise_to_signal: ClassVar[bool] = True

    name: str = "heun"

    def network_calls(self, timesteps: int) -> int:
        twice = self.guided_steps(timesteps)
        return 2 * super().network_calls(timesteps) - 1 - twice[0]
