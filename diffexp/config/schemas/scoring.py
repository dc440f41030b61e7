"""Schemas of references and of scores during training."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

from diffexp.config.context import Context
from diffexp.config.fields import absolute, number
from diffexp.config.schemas.common import Split, Weights
from diffexp.config.schemas.extractors import ExtractorConfig, InceptionConfig
from diffexp.config.schemas.samplers import SamplerConfig


def split_problems(split: Split, context: Context) -> Iterator[tuple[str, str]]:
    """Yield ``("split", problem)`` if the dataset has no such split."""
    if split == "held_out" and not context.held_out:
        yield (
            "split",
            "expected train or test, got held_out, which has no images. Train with data.held_out > 0.",
        )


@dataclass
class ReferenceConfig:
    """The real images, or their published statistics, to compare samples with. They are never mirrored or augmented.

    Keys:
        split: split of the dataset to use.
        count: number of images, evenly spaced in the split; null uses all.
        file: a .npz with mu and sigma to use instead, as published for FID, which allows the Fréchet distance only;
            null uses the images of the split.
        cache: folder in which to cache statistics; null uses $DIFFEXP_CACHE or ~/.cache/diffexp.
    """

    split: Split = "train"
    count: int | None = number(None, at_least=2)
    file: str | None = None
    cache: str | None = None

    def with_absolute_paths(self) -> Self:
        """Return a copy with absolute paths."""
        return absolute(self, ("file", "cache"))

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        yield from split_problems(self.split, context)
        if self.file is not None and self.count is not None:
            yield "count", f"expected null with file, whose number of images is fixed, got {self.count}."


@dataclass
class ScoreConfig:
    """Scores of samples during training, every `every` steps and at the end.

    Keys:
        extractor: network whose features the metrics compare.
        every: steps between two scorings. There is always one at the end.
        count: images sampled per score, over all devices. Scores with different counts are not comparable.
        seed: seed of the starting noise. Image i depends only on seed and i, so every scoring starts from the same
            noise.
        weights: sample with the averaged (ema) or the raw weights.
        samplers: without any, the model's default sampler (for diffusion, ddim-50). null removes a sampler.
            `score/METRIC_best` is the lowest distance of all samplers.
        batch_size: images sampled at once on each device.
        max_seconds: limit in seconds for one sampler in one scoring. diffexp skips samplers that would exceed it; null
            sets no limit.
        max_time_fraction: limit for the time spent on scores, as a fraction of the time since training started or was
            resumed. diffexp skips a scoring that would exceed it; null sets no limit.
    """

    extractor: ExtractorConfig = field(default_factory=InceptionConfig)
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    every: int = number(5_000, at_least=1)
    count: int = number(5_000, at_least=2)
    seed: int = number(0, at_least=0)
    weights: Weights = "ema"
    samplers: dict[str, SamplerConfig | None] = field(default_factory=dict)
    batch_size: int = number(256, at_least=1)
    max_seconds: float | None = number(None, above=0)
    max_time_fraction: float | None = number(None, above=0, at_most=1)

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        if self.weights == "ema" and not context.ema:
            yield "weights", "expected raw when ema is null, got ema."
        if not any(self.samplers.values()):
            yield "samplers", "expected at least one sampler, got none. Set score to null to disable scores."
