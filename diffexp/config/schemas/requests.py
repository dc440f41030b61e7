"""Schemas of what commands are asked to do with a trained model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from omegaconf import MISSING

from diffexp.config.context import Context
from diffexp.config.fields import number
from diffexp.config.schemas.common import Accelerator, SamplingPrecision, Split, WandbConfig, Weights
from diffexp.config.schemas.extractors import EXTRACTORS, ExtractorConfig
from diffexp.config.schemas.samplers import DEFAULT_SPACING, STARTING_LATE, SamplerConfig, Spacing, starts_late_problem
from diffexp.config.schemas.scoring import ReferenceConfig, split_problems

# The estimates of bits per dimension that models give, and what they are.
ESTIMATES = {
    "bound": "variational bound (at most)",
    "ode": "probability-flow ODE, dequantised (at most on average, up to the error of its levels)",
    "exact": "exact",
    "elbo": "evidence lower bound (at most)",
    "dequantised": "change of variables, dequantised (at most, on average)",
}


def estimate_settings(name: str, about: Mapping[str, Any]) -> str:
    """What an estimate depends on apart from the model, for tables: "fixed_large, 100 terms".

    Args:
        name: of the estimate.
        about: as likelihood.json holds it.
    """
    calls = about["network_calls"].get(name)
    if name == "ode":
        return f"{calls // 2 + 1} levels"
    if name != "bound":
        return ""
    # records without a version do not say whether the variance was learned
    return f"{about['likelihood']['variance']}, {calls} terms" if "version" in about else f"{calls} terms"


@dataclass
class LikelihoodConfig:
    """How `metrics=bpd` estimates bits per dimension.

    Keys:
        split: of the data, of which `count` images are taken, evenly spread.
        terms: of the variational bound, for each image, each a network call; null, or more than T, is all T. The
            lowest timesteps, t = 0 first, are computed for every image, and one is drawn from each part of the others.
        variance: of the model's steps in the bound. null takes the learned variance where the model learned it, and
            otherwise the default of the sampler ddpm, fixed_large.
        ode_steps: levels that the probability-flow ODE is integrated over, at most T, with two network calls each; null
            leaves it out. The fewer levels, the larger its error, which no standard error contains.
    """

    split: Split = "test"
    terms: int | None = number(100, at_least=2)
    variance: Literal["fixed_small", "fixed_large", "learned"] | None = None
    ode_steps: int | None = number(50, at_least=2)

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        yield from split_problems(self.split, context)
        if self.variance == "learned" and not context.learned_variance:
            yield "variance", "was not learned: that takes a training with model.loss: hybrid or vlb"


@dataclass
class EvaluateRequest:
    """The table that `diffexp evaluate` makes: samplers × steps × spacings, all from the same starting noise.

    Keys:
        metrics: scores of samples, or bpd: bits per dimension of real images.
        sampler: this one alone instead of a table; its scores become a run of their own, as sweeps over samplers want.
        samplers: the rows, without any those usual for the model; `steps`, and a `spacing` other than the default, of
            one hold for it alone.
        steps: the columns; null is all T, as is an empty list. Those above T are left out, which is told.
        spacings: which timesteps are visited.
        count: images of one score.
        repeats: scores of each sampler at each number of steps, from images 0 … count-1, count … 2·count-1, …; they
            make its mean and spread. More can be asked for later.
        extractor: null takes that of the training's scores.
        batch_size: images sampled at once.
        memory_gb: GiB that sampling may take beside the model; fewer images are sampled at once if need be.
        precision: in which the network samples; the extractor always computes in float32.
        compile: have torch compile the network first: half a minute or more, won back in some hundred network calls.
        cuda_graphs: on a GPU, replay a CUDA graph of the network instead of launching its kernels one by one; compile
            does so, too.
        out: folder of the table (or of the run that a single `sampler` makes); null is evaluations/ in the run's
            directory. What was interrupted is continued there.
        wandb: null is as the training has it.
    """

    metrics: Literal["scores", "bpd"] = "scores"
    likelihood: LikelihoodConfig = field(default_factory=LikelihoodConfig)
    sampler: SamplerConfig | None = None
    samplers: dict[str, SamplerConfig | None] = field(default_factory=dict)
    steps: list[int | None] = number([], at_least=1)
    spacings: list[Spacing] = field(default_factory=lambda: [DEFAULT_SPACING])
    count: int = number(1_000, at_least=2)
    repeats: int = number(3, at_least=1)
    seed: int = number(0, at_least=0)
    weights: Weights = "ema"
    extractor: ExtractorConfig | None = None
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    batch_size: int = number(256, at_least=1)
    memory_gb: float | None = number(None, above=0)
    accelerator: Accelerator = "auto"
    precision: SamplingPrecision = "auto"
    compile: bool = False
    cuda_graphs: bool = False
    out: str | None = None
    wandb: WandbConfig | None = None

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        if context.zero_terminal_snr and any(each not in (None, context.timesteps) for each in self.steps):
            for spacing in self.spacings:
                if spacing in STARTING_LATE:
                    yield "spacings", starts_late_problem(spacing)
        without_null = context.classes is not None and context.class_dropout_prob == 0
        if self.metrics == "bpd" and without_null:
            yield (
                "metrics",
                "expected scores, got bpd, which is that of no class: with model.class_dropout_prob = 0 none was "
                "trained. Train with class_dropout_prob above 0",
            )


@dataclass
class ScoreRequest:
    """What `diffexp score A B` does.

    Keys:
        extractor: null takes that of B's training config, where B is one.
        count: how many of A's images; null takes all.
        batch_size: images at once.
        out: a .json for the result.
        overwrite: replace the file `out`; false refuses one that exists.
    """

    extractor: ExtractorConfig | None = None
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    count: int | None = number(None, at_least=2)
    batch_size: int = number(256, at_least=1)
    accelerator: Accelerator = "auto"
    out: str | None = None
    overwrite: bool = False


@dataclass
class ExtractorRequest:
    """How `diffexp extractor` trains a small classifier on a dataset's labels.

    Keys:
        name: in the names of its metrics, fd_NAME.
        features: width of the layer whose output is used.
        lr: largest learning rate, reached after a third of the steps.
        shift: images are shifted by up to so many pixels, at random.
        label_smoothing: share of the target that is spread over all classes.
        out: the file; null is NAME.safetensors.
    """

    name: str = MISSING
    features: int = number(128, at_least=2)
    steps: int = number(1_400, at_least=1)
    batch_size: int = number(128, at_least=2)
    lr: float = number(3e-3, above=0)
    weight_decay: float = number(0.01, at_least=0)
    dropout: float = number(0.2, at_least=0, below=1)
    shift: int = number(2, at_least=0)
    label_smoothing: float = number(0.05, at_least=0, below=1)
    seed: int = number(0, at_least=0)
    accelerator: Accelerator = "auto"
    out: str | None = None

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        if not self.name or not all(letter.isascii() and (letter.isalnum() or letter in "_-") for letter in self.name):
            yield "name", f"{self.name!r} names metrics and files: use letters, digits, '_' and '-'"
        if self.name in EXTRACTORS.names:
            yield "name", f"{self.name!r} is the name of another extractor"


@dataclass
class SampleRequest:
    """What `diffexp sample` draws.

    Keys:
        sampler: without one, the one usual for the model (of diffusion, DDIM with 50 steps).
        count: images; image i depends on the seed and i alone.
        batch_size: images sampled at once; changes nothing but memory, speed and rounding.
        memory_gb: GiB that sampling may take beside the model; fewer images are sampled at once if need be.
        precision: in which the network runs; as in training, or bf16-true, which rounds its weights to bfloat16.
        compile: have torch compile the network first: half a minute or more, won back in some hundred network calls.
        cuda_graphs: on a GPU, replay a CUDA graph of the network instead of launching its kernels one by one; compile
            does so, too.
        out: NAME.png (a grid), NAME.npz (an array `images`, uint8, N×H×W×C) or a folder of PNGs;
            null makes a grid in the run's drawings/.
        overwrite: replace the file `out`, or all numbered PNGs of the folder `out`; false refuses what exists.
    """

    sampler: SamplerConfig = MISSING
    count: int = number(64, at_least=1)
    seed: int = number(0, at_least=0)
    weights: Weights = "ema"
    batch_size: int = number(256, at_least=1)
    memory_gb: float | None = number(None, above=0)
    accelerator: Accelerator = "auto"
    precision: SamplingPrecision = "auto"
    compile: bool = False
    cuda_graphs: bool = False
    out: str | None = None
    overwrite: bool = False


@dataclass
class ExportRequest:
    """What `diffexp export` writes.

    Keys:
        format: safetensors is one file that every command of diffexp takes; diffusers is a folder for its pipelines.
        weights: the averaged (ema) or the raw ones.
        out: NAME.safetensors, or the folder; null puts it beside the run's checkpoints/, else beside the file.
        overwrite: replace the file `out`, or the pipeline in the folder `out`; false refuses what exists.
    """

    format: Literal["safetensors", "diffusers"] = "safetensors"
    weights: Weights = "ema"
    out: str | None = None
    overwrite: bool = False


@dataclass
class ImportRequest:
    """Where `diffexp import` writes, and what a checkpoint without a config does not tell.

    Keys:
        image_size: height and width of the images of a DDPM or DDIM checkpoint; null takes the size at which its
            attention is at 16 pixels, as in all configs of the authors.
        out: NAME.safetensors; NAME.yaml is written beside it; null takes the name of what is imported.
        overwrite: replace both files; false refuses what exists.
    """

    image_size: int | None = number(None, at_least=1)
    out: str | None = None
    overwrite: bool = False
