"""Schemas of the requests: the keys of the commands on trained models."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from omegaconf import MISSING

from diffexp.config.context import Context
from diffexp.config.fields import number
from diffexp.config.schemas.common import Accelerator, SamplingPrecision, Split, WandbConfig, Weights
from diffexp.config.schemas.extractors import EXTRACTORS, ExtractorConfig, InceptionConfig, extractor_problems
from diffexp.config.schemas.samplers import DEFAULT_SPACING, STARTING_LATE, SamplerConfig, Spacing, starts_late_problem
from diffexp.config.schemas.scoring import ReferenceConfig, split_problems

# The estimates of bits per dimension, and their kinds.
ESTIMATES = {
    "bound": "variational bound (at most)",
    "ode": "probability-flow ODE, dequantised (at most on average, up to the error of its levels)",
    "exact": "exact",
    "elbo": "evidence lower bound (at most)",
    "dequantised": "change of variables, dequantised (at most, on average)",
}


def estimate_settings(name: str, about: Mapping[str, Any]) -> str:
    """Return an estimate's settings for tables: "fixed_large, 100 terms".

    Args:
        name: name of the estimate.
        about: content of likelihood.json.
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
        split: split of the dataset, from which `count` images, evenly spaced, are used.
        terms: terms of the variational bound per image, each a network call; null, or more than T, computes all T. The
            lowest timesteps, from t = 0, are computed for every image; one is drawn from each part of the others.
        variance: variance of the model's steps in the bound; null uses the learned variance where the model learned it,
            else fixed_large, the default of the sampler ddpm.
        ode_steps: noise levels of the probability-flow ODE's integration, at most T, with two network calls each; null
            omits the ODE. Fewer levels have a larger error, which no standard error contains.
    """

    split: Split = "test"
    terms: int | None = number(100, at_least=2)
    variance: Literal["fixed_small", "fixed_large", "learned"] | None = None
    ode_steps: int | None = number(50, at_least=2)

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        yield from split_problems(self.split, context)
        if self.variance == "learned" and not context.learned_variance:
            yield (
                "variance",
                "expected a fixed variance, got learned. Train with model.loss: hybrid or vlb.",
            )


@dataclass
class EvaluateRequest:
    """A table of scores: samplers × steps × spacings, all from the same starting noise.

    Keys:
        metrics: scores computes scores of samples; bpd computes bits per dimension of real images.
        sampler: score this sampler only and record its scores as a run, for sweeps over samplers; null makes a table.
        samplers: rows of the table; without any, the model's default samplers. A sampler's own `steps`, or `spacing`
            other than the default, applies to it alone.
        steps: columns of the table. null means all T, as does an empty list. diffexp skips numbers above T and says so.
        spacings: which timesteps to visit; see the samplers' key `spacing`.
        count: images per score.
        repeats: number of scores of each sampler at each number of steps, from images 0 … count-1, count … 2·count-1,
            …, for the mean and spread. A later evaluation can add more.
        seed: seed of the starting noise.
        weights: sample with the averaged (ema) or the raw weights.
        extractor: network whose features the metrics compare; null uses that of the training's scores.
        batch_size: images sampled at once.
        memory_gb: limit in GiB for sampling, in addition to the model; null sets no limit. diffexp samples fewer images
            at once if necessary.
        accelerator: hardware to use; auto uses a CUDA GPU if there is one, gpu also Apple's.
        precision: precision of the network in sampling; see the key of `diffexp sample`. The extractor always computes
            in float32.
        compile: compile the network with torch.compile first. Takes half a minute or more, which some hundred network
            calls save.
        cuda_graphs: on a GPU, replay a CUDA graph of the network instead of launching its kernels one by one. compile
            does so, too.
        out: folder of the table, or of the run that a single `sampler` creates; null uses evaluations/ in the run's
            directory. An interrupted evaluation continues there.
        wandb: Null, the default, uses the training's settings.
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
        if self.metrics == "scores":
            extractor = self.extractor or InceptionConfig()
            yield from extractor_problems(extractor, extractor.sizes(), self.count, context)
        without_null = context.classes is not None and context.class_dropout_prob == 0
        if self.metrics == "bpd" and without_null:
            yield (
                "metrics",
                "expected scores, got bpd, which needs the model without labels: with model.class_dropout_prob = 0 it "
                "is not trained. Train with class_dropout_prob > 0.",
            )

    def fitting_defaults(self, context: Context) -> Iterator[tuple[str, Any]]:
        """Yield raw weights for a training without an average."""
        if not context.ema:
            yield "weights", "raw"

    def unavailable(self, context: Context) -> Iterator[tuple[str, str]]:
        """Yield the problems of the count and the images with the extractor in a file."""
        if self.extractor is not None:
            yield from extractor_problems(self.extractor, self.extractor.sizes_of_file(), self.count, context)


@dataclass
class ScoreRequest:
    """A comparison of the image sets A and B by `diffexp score A B`.

    Keys:
        extractor: network whose features the metrics compare; null uses that of B's training config, if B is one.
        count: number of A's images to use; null uses all.
        batch_size: images in the extractor at once.
        accelerator: hardware to use; auto uses a CUDA GPU if there is one, gpu also Apple's.
        out: a .json file for the result; null writes none.
        overwrite: replace the file `out`; false refuses an existing file.
    """

    extractor: ExtractorConfig | None = None
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    count: int | None = number(None, at_least=2)
    batch_size: int = number(256, at_least=1)
    accelerator: Accelerator = "auto"
    out: str | None = None
    overwrite: bool = False

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        extractor = self.extractor or InceptionConfig()
        yield from extractor_problems(extractor, extractor.sizes(), self.count, Context())


@dataclass
class ExtractorRequest:
    """The training of a small classifier on a dataset's labels.

    Keys:
        name: name of the extractor in metrics, such as fd_NAME.
        features: width of the layer whose output is the feature vector.
        steps: optimiser steps.
        batch_size: images per step.
        lr: largest learning rate, reached after a third of the steps.
        weight_decay: weight decay of the optimiser.
        dropout: dropout probability.
        shift: largest random shift of the images in pixels.
        label_smoothing: fraction of the target that is spread over all classes.
        seed: seed of all random numbers in training.
        accelerator: hardware to train on; auto uses a CUDA GPU if there is one, gpu also Apple's.
        out: file to write; null writes NAME.safetensors.
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
            yield "name", f"expected a name of letters, digits, '_' and '-' (for metrics and files), got {self.name!r}."
        if self.name in EXTRACTORS.names:
            yield "name", f"expected an unused name, got {self.name!r}, which is a registered extractor."


@dataclass
class SampleRequest:
    """Images to draw from a trained model.

    Keys:
        sampler: without one, the model's default sampler (for diffusion, DDIM with 50 steps).
        count: number of images. Image i depends only on the seed and i.
        seed: seed of the starting noise and of the sampler's noise.
        weights: sample with the averaged (ema) or the raw weights.
        batch_size: images sampled at once; affects memory, speed and rounding only.
        memory_gb: limit in GiB for sampling, in addition to the model; null sets no limit. diffexp samples fewer images
            at once if necessary.
        accelerator: hardware to use; auto uses a CUDA GPU if there is one, gpu also Apple's.
        precision: precision of the network, as in training, or bf16-true, which rounds its weights to bfloat16.
        compile: compile the network with torch.compile first. Takes half a minute or more, which some hundred network
            calls save.
        cuda_graphs: on a GPU, replay a CUDA graph of the network instead of launching its kernels one by one. compile
            does so, too.
        out: NAME.png (a grid), NAME.npz (an array `images`, uint8, N×H×W×C) or a folder of PNGs;
            null writes a grid to the run's drawings/.
        overwrite: replace the file `out`, or all numbered PNGs of the folder `out`; false refuses existing files.
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

    def fitting_defaults(self, context: Context) -> Iterator[tuple[str, Any]]:
        """Yield raw weights for a training without an average."""
        if not context.ema:
            yield "weights", "raw"


@dataclass
class ExportRequest:
    """A file or folder with the weights of a trained model.

    Keys:
        format: safetensors writes one file that every command of diffexp reads; diffusers writes a pipeline's folder.
        weights: export the averaged (ema) or the raw weights.
        out: NAME.safetensors, or the folder; null writes next to the run's checkpoints/, or next to the input file.
        overwrite: replace the file `out`, or the pipeline in the folder `out`; false refuses existing files.
    """

    format: Literal["safetensors", "diffusers"] = "safetensors"
    weights: Weights = "ema"
    out: str | None = None
    overwrite: bool = False

    def fitting_defaults(self, context: Context) -> Iterator[tuple[str, Any]]:
        """Yield raw weights for a training without an average."""
        if not context.ema:
            yield "weights", "raw"


@dataclass
class ImportRequest:
    """The output of an import, and the image size, which a checkpoint without a config lacks.

    Keys:
        image_size: height and width in pixels of the images of a DDPM or DDIM checkpoint; null uses the size at which
            its attention is at 16 pixels, as in all configs of the authors.
        out: NAME.safetensors, next to which NAME.yaml is written; null uses the name of the imported file or folder.
        overwrite: replace both files; false refuses existing files.
    """

    image_size: int | None = number(None, at_least=1)
    out: str | None = None
    overwrite: bool = False
