"""Schemas of everything that scores: feature extractors, references, scores while training, the evaluation commands."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from omegaconf import MISSING

from diffexp.config.fields import absolute, number
from diffexp.config.registry import Choice, Registry
from diffexp.config.variants import DEFAULT_SPACING, Spacing, VariantConfig
from diffexp.config.words import Accelerator, SamplingPrecision, Split, Wandb, Weights

if TYPE_CHECKING:
    from diffexp.config.experiment import Experiment

_EXTRACTORS = "diffexp.evaluation.extractors"


# --- feature extractors --------------------------------------------------------------------------


@dataclass
class ExtractorConfig(Choice):
    """A feature extractor. Its builder returns a `diffexp.evaluation.extractors.base.Extractor`."""

    # Fields that hold a path.
    paths: ClassVar[tuple[str, ...]] = ()

    def located(self) -> Self:
        """The same with absolute paths, so that it means the same from any working directory."""
        return absolute(self, self.paths)


EXTRACTORS = Registry("extractor", ExtractorConfig)


@EXTRACTORS.register("inception", f"{_EXTRACTORS}.inception:load")
@dataclass
class InceptionConfig(ExtractorConfig):
    """Inception-v3 as torch-fidelity has it (2048 features): the network of FID.

    Keys:
        weights: the file of its weights; null looks at $DIFFEXP_INCEPTION_WEIGHTS, then in torch's cache, then
            downloads to there.
    """

    name: str = "inception"
    weights: str | None = None
    paths: ClassVar[tuple[str, ...]] = ("weights",)


@EXTRACTORS.register("clip", f"{_EXTRACTORS}.large:load_clip")
@dataclass
class ClipConfig(ExtractorConfig):
    """CLIP's image encoder as torch-fidelity has it.

    Keys:
        variant: which of OpenAI's networks.
        weights: OpenAI's file of it; null takes the one in torch's cache.
    """

    name: str = "clip"
    variant: Literal["vit-b-32", "vit-b-16", "vit-l-14", "rn50"] = "vit-b-32"
    weights: str | None = None
    paths: ClassVar[tuple[str, ...]] = ("weights",)


@EXTRACTORS.register("dinov2", f"{_EXTRACTORS}.large:load_dinov2")
@dataclass
class Dinov2Config(ExtractorConfig):
    """DINOv2 as torch-fidelity has it, from code and weights in torch.hub's cache: it reads none from a path.

    Keys:
        variant: which of its networks.
    """

    name: str = "dinov2"
    variant: Literal["vit-s-14", "vit-b-14", "vit-l-14", "vit-g-14"] = "vit-b-14"


@EXTRACTORS.register("digits_v1", f"{_EXTRACTORS}.classifier:shipped_digits")
@dataclass
class DigitsExtractorConfig(ExtractorConfig):
    """A small classifier of the 8×8 digits (32 features), shipped with diffexp."""

    name: str = "digits_v1"


@EXTRACTORS.register("fashion_mnist_v1", f"{_EXTRACTORS}.classifier:shipped_fashion_mnist")
@dataclass
class FashionMnistExtractorConfig(ExtractorConfig):
    """A small classifier of Fashion-MNIST at 32×32 (128 features), shipped with diffexp."""

    name: str = "fashion_mnist_v1"


@EXTRACTORS.register("classifier", f"{_EXTRACTORS}.classifier:load")
@dataclass
class ClassifierConfig(ExtractorConfig):
    """A small classifier that `diffexp extractor` has trained.

    Keys:
        weights: its file.
    """

    name: str = "classifier"
    weights: str = MISSING
    paths: ClassVar[tuple[str, ...]] = ("weights",)


# --- what is scored against what -----------------------------------------------------------------


def _split_problems(split: Split, experiment: "Experiment") -> Iterator[tuple[str, str]]:
    if split == "held_out" and not experiment.data.held_out:
        yield "split", "held_out needs a training that has kept images aside, by data.held_out"


@dataclass
class ReferenceConfig:
    """The real images (or their published statistics) that scores compare with; never mirrored or otherwise augmented.

    Keys:
        split: of the data.
        count: how many images, evenly spread over the split; null takes all.
        file: a .npz with mu and sigma instead, as published for FID; it allows the Fréchet distance only.
        cache: folder where statistics are kept; null is $DIFFEXP_CACHE or ~/.cache/diffexp.
    """

    split: Split = "train"
    count: int | None = number(None, at_least=2)
    file: str | None = None
    cache: str | None = None

    def located(self) -> Self:
        """The same with absolute paths."""
        return absolute(self, ("file", "cache"))

    def problems(self, experiment: "Experiment") -> Iterator[tuple[str, str]]:
        yield from _split_problems(self.split, experiment)
        if self.file is not None and self.count is not None:
            yield "count", "says nothing about a file of statistics"


@dataclass
class Scoring:
    """Scores while training, every `every` steps and at the end.

    Keys:
        count: images drawn for each score, over all devices. Scores of different counts cannot be compared.
        seed: image i depends on it and i alone, so that every scoring starts from the same noise.
        weights: sample with the averaged (ema) or the raw weights.
        samplers: named samplers; without any, the model's usual one (of diffusion, ddim-50); setting one to null
            removes it. The lowest distance of any is `score/METRIC_best`.
        batch_size: images sampled at once on each device.
        limit_seconds: samplers whose part of one scoring would take longer are left out; null is no limit.
        limit_share: a scoring that would bring the time for scores above this share of the time since training started
            (or was resumed) is left out; null is no limit.
    """

    extractor: ExtractorConfig = field(default_factory=InceptionConfig)
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    every: int = number(5_000, at_least=1)
    count: int = number(5_000, at_least=2)
    seed: int = number(0, at_least=0)
    weights: Weights = "ema"
    samplers: dict[str, VariantConfig | None] = field(default_factory=dict)
    batch_size: int = number(256, at_least=1)
    limit_seconds: float | None = number(None, above=0)
    limit_share: float | None = number(None, above=0, at_most=1)

    def problems(self, experiment: "Experiment") -> Iterator[tuple[str, str]]:
        if self.weights == "ema" and experiment.ema is None:
            yield "weights", "must be raw when ema is null"
        if not any(self.samplers.values()):
            yield "samplers", "must name at least one; score: null switches scores off"


def metric_name(metric: str, extractor: str, count: int, is_inception: bool) -> str:
    """The full name of a metric: ``fid50k`` and ``kid50k`` with the genuine Inception-v3, else ``fd_digits_v1_500``.

    Args:
        metric: "fd", "kd", "precision", …
        extractor: its name in metrics.
        count: images in one score.
        is_inception: whether distances may be called FID and KID.
    """
    short = f"{count // 1000}k" if count % 1000 == 0 else str(count)
    if is_inception and metric in ("fd", "kd"):
        return f"{metric[0]}id{short}"
    return f"{metric}_{extractor}_{short}"


# --- commands ------------------------------------------------------------------------------------


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

    def problems(self, experiment: "Experiment") -> Iterator[tuple[str, str]]:
        yield from _split_problems(self.split, experiment)
        if self.variance == "learned" and getattr(experiment.model, "loss", "simple") == "simple":
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
        blocks: scores of each cell, from images 0 … count-1, count … 2·count-1, …; they make its mean and spread.
            More can be asked for later.
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
    sampler: VariantConfig | None = None
    samplers: dict[str, VariantConfig | None] = field(default_factory=dict)
    steps: list[int | None] = number([], at_least=1)
    spacings: list[Spacing] = field(default_factory=lambda: [DEFAULT_SPACING])
    count: int = number(1_000, at_least=2)
    blocks: int = number(3, at_least=1)
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
    wandb: Wandb | None = None

    def problems(self, experiment: "Experiment") -> Iterator[tuple[str, str]]:
        model = experiment.model
        wanted = [each for each in self.samplers.values() if isinstance(each, model.variants)]
        cells = [cell for each in wanted for cell in model.cells(each, self.steps, self.spacings)]
        wrong = {text for cell in cells for key, text in cell.problems(experiment) if key == "spacing"}
        for text in sorted(wrong):
            yield "spacings", text
        without_null = getattr(model, "classes", None) is not None and getattr(model, "label_dropout", None) == 0
        if self.metrics == "bpd" and without_null:
            yield (
                "metrics",
                "expected scores, got bpd, which is that of no class: with model.label_dropout = 0 none was trained. "
                "Train with label_dropout above 0",
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
class ExtractorTraining:
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

    def problems(self, experiment: "Experiment") -> Iterator[tuple[str, str]]:
        if not self.name or not all(letter.isascii() and (letter.isalnum() or letter in "_-") for letter in self.name):
            yield "name", f"{self.name!r} names metrics and files: use letters, digits, '_' and '-'"
        if self.name in EXTRACTORS.names:
            yield "name", f"{self.name!r} is the name of another extractor"
