"""Schemas of the samplers, chosen by ``sampler: {name: …}``. Each family of models has its own."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from diffexp.config.context import Context
from diffexp.config.fields import number
from diffexp.config.registry import Component, Registry
from diffexp.errors import UserError, did_you_mean
from diffexp.formatting import listed

# Which timesteps a sampler with steps visits.
Spacing = Literal["arctan", "leading", "trailing", "linspace", "quadratic", "quadratic-0.8", "karras", "logsnr"]
DEFAULT_SPACING: Spacing = "arctan"  # for the reasons in docs/guides/solvers.md
# Those that do not start at T-1 with fewer than T steps.
STARTING_LATE: tuple[Spacing, ...] = ("leading", "quadratic-0.8")


def starts_late_problem(spacing: Spacing) -> str:
    """Return the problem of a spacing of `STARTING_LATE` with a schedule that ends in pure noise."""
    return (
        f"expected a path that starts at T-1, as schedule.zero_terminal_snr requires, got {spacing}. "
        f"Use {DEFAULT_SPACING} or trailing."
    )


@dataclass
class SamplerConfig(Component):
    """A sampler. `ModelConfig` says which models support it and how many network calls it takes."""

    def label(self) -> str:
        """Return a short text that identifies the sampler in the names of metrics: prior-temperature0.7."""
        return "-".join([self.name, *self.own_parts()])

    def own_parts(self) -> list[str]:
        """Return the parts of the label for the keys that its schema adds to its family's."""
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
        """Return the parts of a sample file's name. It omits the keys that `plain` resets to their defaults."""
        return (self.name,)

    def plain(self) -> "SamplerConfig":
        """Return the sampler with the same `brief` and all other keys at their defaults."""
        return type(self)()

    def class_number(self, names: Sequence[str] | None) -> int | None:
        """Return the number of the class of all images, or None if each has its own.

        Args:
            names: names of the model's classes; None if they are unknown.

        Raises:
            UserError: if the class is given by a name that is unknown.
        """
        return None

    def columns(self) -> dict[str, Any]:
        """Return the sampler's additional columns in a table of scores, by heading."""
        return {}

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        wanted = context.sampler_base
        if not isinstance(self, wanted):
            known = [name for name in SAMPLERS.names if issubclass(SAMPLERS.schema(name), wanted)]
            yield "name", f"expected {' or '.join(known)} for model.name = {context.model}, got {self.name}."


SAMPLERS = Registry("sampler", SamplerConfig, "diffexp.diffusion.samplers.{name}:{schema}")


@SAMPLERS.register("prior")
@dataclass
class PriorConfig(SamplerConfig):
    """Draw z from N(0, temperature² I) and map it to an image with one network call, for gan, vae and flow.

    Keys:
        temperature: standard deviation of z. Below 1, images are more typical and less diverse.
    """

    name: str = "prior"
    temperature: float = number(1.0, at_least=0)


@SAMPLERS.register("ancestral")
@dataclass
class AncestralConfig(SamplerConfig):
    """Draw pixel after pixel from its distribution given all previous ones, for autoregressive models.

    Keys:
        temperature: divisor of the log-probabilities. Below 1, pixels are more likely ones.
    """

    name: str = "ancestral"
    temperature: float = number(1.0, above=0)


@SAMPLERS.register_base
@dataclass
class DiffusionSamplerConfig(SamplerConfig):
    """A sampler of a diffusion model along a path of timesteps.

    Keys:
        steps: number of the T timesteps to visit; null visits all.
        spacing: which timesteps to visit. arctan starts at T-1. For heun, and where clip_sample is false and the model
            predicts ε, it starts at the first timestep with √ᾱ ≤ 0.02: both multiply errors of the network by 1/√ᾱ.
        clip_sample: clip x̂0 to [-1, 1] at every step and recompute ε̂ from it.
        dynamic_thresholding_ratio: quantile of an image's |x̂0|. Where it exceeds 1, clip the image to it and divide by
            it instead of clipping to [-1, 1] (Saharia et al. 2022); null always clips to [-1, 1].
        class_label: class of all images, for a model with classes: its name or its number from 0; null gives image i
            the class i mod classes. An unquoted number is never a name.
        guidance_scale: w in ε̂(none) + w (ε̂(class) - ε̂(none)), classifier-free guidance (Ho & Salimans 2022). 1 uses
            the class only, 0 no class; other values call the network twice.
        guidance_interval: part of the path to guide (Kynkäänniemi et al. 2024), from 0, the data, to 1, the noise.
            Elsewhere only the class is used.
    """

    # whether it steps in s = √(1-ᾱ)/√ᾱ, so that a first step from a large s multiplies errors
    integrates_over_noise_to_signal: ClassVar[bool] = False

    steps: int | None = number(None, at_least=1)
    spacing: Spacing = DEFAULT_SPACING
    clip_sample: bool = True
    dynamic_thresholding_ratio: float | None = number(None, above=0, at_most=1)

    class_label: int | str | None = number(None, at_least=0)
    guidance_scale: float = number(1.0, at_least=0)
    guidance_interval: list[float] = number([0.0, 1.0], at_least=0, at_most=1)

    def network_calls(self, timesteps: int) -> int:
        """Return the number of network calls per batch, for a model with T timesteps."""
        return (self.steps or timesteps) + sum(self.guided_steps(timesteps))

    def guided_steps(self, timesteps: int) -> list[bool]:
        """Return for each step of the path, from the noise to the data, whether it calls the network twice."""
        steps, (low, high) = self.steps or timesteps, self.guidance_interval
        if self.guidance_scale in (0, 1):
            return [False] * steps
        return [low <= 1 - (step + 0.5) / steps <= high for step in range(steps)]

    def starts_late(self, timesteps: int) -> bool:
        """Whether the path starts below T-1, for a model with T timesteps."""
        return self.spacing in STARTING_LATE and self.steps not in (None, timesteps)

    def label(self, steps: int | None = None) -> str:
        """Return a short text that identifies the sampler: ddim-50-eta0.2-quadratic.

        Args:
            steps: number of steps to include; None omits it.
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

    def class_number(self, names: Sequence[str] | None) -> int | None:
        if not isinstance(self.class_label, str):
            return self.class_label
        if names is None:
            raise UserError(
                f"class_label: expected a number, because this model's classes have no recorded names, got "
                f"{self.class_label!r}."
            )
        if self.class_label not in names:
            raise UserError(
                f"class_label: expected one of the {len(names)} classes {listed(names)}, got {self.class_label!r}."
                f"{did_you_mean(self.class_label, names)}"
            )
        return names.index(self.class_label)

    def brief(self) -> tuple[str, ...]:
        return (self.name, str(self.steps or "all"))

    def plain(self) -> "SamplerConfig":
        return type(self)(steps=self.steps)

    def columns(self) -> dict[str, Any]:
        return {"spacing": self.spacing, "clip_sample": self.clip_sample}

    def fitting_defaults(self, context: Context) -> Iterator[tuple[str, Any]]:
        """Yield no clipping for a model whose samplers work on values outside [-1, 1]."""
        if not context.bounded:
            yield "clip_sample", False

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        yield from super().problems(context)
        timesteps, classes = context.timesteps, context.classes
        if timesteps is not None and self.steps is not None and self.steps > timesteps:
            yield (
                "steps",
                f"expected an integer <= model.timesteps = {timesteps}, got {self.steps}. Set it to {timesteps}, or to "
                "null for all timesteps.",
            )
        if timesteps is not None and context.zero_terminal_snr and self.starts_late(timesteps):
            yield "spacing", starts_late_problem(self.spacing)
        if self.clip_sample and not context.bounded:
            yield "clip_sample", "expected false, got true: this model's samplers work on values outside [-1, 1]."
        if classes is None and (self.class_label is not None or self.guidance_scale != 1):
            key = "guidance_scale" if self.class_label is None else "class_label"
            yield key, "expected a model trained with model.classes, got one without."
        elif classes is not None and self.guidance_scale != 1 and context.class_dropout_prob == 0:
            yield (
                "guidance_scale",
                f"expected 1, got {self.guidance_scale:g}: with model.class_dropout_prob = 0 the model is not trained "
                "without labels. Train with class_dropout_prob > 0.",
            )
        elif isinstance(self.class_label, int) and self.class_label >= (classes or 0):
            yield "class_label", f"expected an integer < model.classes = {classes}, got {self.class_label}."
        if len(self.guidance_interval) != 2 or self.guidance_interval[0] > self.guidance_interval[1]:
            yield "guidance_interval", f"expected two numbers, the lower first, got {self.guidance_interval}."
        if self.dynamic_thresholding_ratio is not None and not self.clip_sample:
            yield (
                "dynamic_thresholding_ratio",
                "expected null with clip_sample: false. Set clip_sample to true.",
            )


@SAMPLERS.register("ddpm")
@dataclass
class DDPMConfig(DiffusionSamplerConfig):
    """Ancestral sampling (Ho et al. 2020).

    Keys:
        variance: variance of the noise added at each step. fixed_small is β̃_t, fixed_large β_t, none 0; learned is what
            a model trained with model.loss hybrid or vlb predicts (Nichol & Dhariwal 2021).
    """

    name: str = "ddpm"
    variance: Literal["fixed_small", "fixed_large", "none", "learned"] = "fixed_large"

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        yield from super().problems(context)
        if self.variance == "learned" and not context.learned_variance:
            yield (
                "variance",
                "expected a fixed variance, got learned. Train with model.loss: hybrid or vlb.",
            )


@SAMPLERS.register("ddim")
@dataclass
class DDIMConfig(DiffusionSamplerConfig):
    """DDIM (Song et al. 2021).

    Keys:
        eta: scale of the noise added at each step. 0 is deterministic.
        sigma_hat: add the paper's larger noise σ̂ instead; requires eta 1.
    """

    name: str = "ddim"
    eta: float = number(0.0, at_least=0, at_most=1)
    sigma_hat: bool = False

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        yield from super().problems(context)
        if self.sigma_hat and self.eta != 1:
            yield "eta", f"expected 1 with sigma_hat: true (σ̂ belongs to the mean of η = 1), got {self.eta}."


@SAMPLERS.register("dpmpp")
@dataclass
class DPMSolverConfig(DiffusionSamplerConfig):
    """DPM-Solver++ multistep (Lu et al. 2022), also called "DPM++".

    Keys:
        order: order of the solver. Order 3 applies to steps of at most 0.7 in log(√ᾱ/√(1-ᾱ)), or 0.35 with sde; longer
            steps use order 2.
        sde: add noise at every step, as in "DPM++ SDE".
    """

    name: str = "dpmpp"
    order: int = number(2, at_least=1, at_most=3)
    sde: bool = False


@SAMPLERS.register("unipc")
@dataclass
class UniPCConfig(DiffusionSamplerConfig):
    """UniPC multistep (Zhao et al. 2023).

    Keys:
        order: order of the predictor; that of the error is one higher. Order 3 applies to steps of at most 0.7 in
            log(√ᾱ/√(1-ᾱ)); longer steps use order 2.
    """

    name: str = "unipc"
    order: int = number(2, at_least=1, at_most=3)


@SAMPLERS.register("heun")
@dataclass
class HeunConfig(DiffusionSamplerConfig):
    """Heun's method (Karras et al. 2022): two network calls per step, one in the last step."""

    integrates_over_noise_to_signal: ClassVar[bool] = True

    name: str = "heun"

    def network_calls(self, timesteps: int) -> int:
        twice = self.guided_steps(timesteps)
        return 2 * super().network_calls(timesteps) - 1 - twice[0]


def check_class_names(samplers: Mapping[str, SamplerConfig | None], key: str, names: Sequence[str] | None) -> None:
    """Check that the classes that samplers name are known.

    Args:
        samplers: the samplers; None is skipped.
        key: their config key, for messages.
        names: names of the classes; None if they are unknown.

    Raises:
        UserError: for the first that is not.
    """
    for name, sampler in samplers.items():
        try:
            if sampler is not None:
                sampler.class_number(names)
        except UserError as error:
            raise UserError(".".join(filter(None, (key, name, str(error))))) from None
