"""Schemas of everything that scores: feature extractors, references, scores while training, the evaluation commands."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

from diffexp.config.context import Context
from diffexp.config.fields import absolute, number
from diffexp.config.schemas.common import Split, Weights
from diffexp.config.schemas.extractors import ExtractorConfig, InceptionConfig
from diffexp.config.schemas.samplers import SamplerConfig


def split_problems(split: Split, context: Context) -> Iterator[tuple[str, str]]:
    """What is wrong with a split of the data, as ``("split", …)``."""
    if split == "held_out" and not context.held_out:
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

    def with_absolute_paths(self) -> Self:
        """The same with absolute paths."""
        return absolute(self, ("file", "cache"))

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        yield from split_problems(self.split, context)
        if self.file is not None and self.count is not None:
            yield "count", "says nothing about a file of statistics"


@dataclass
class ScoreConfig:
    """Scores while training, every `every` steps and at the end.

    Keys:
        count: images drawn for each score, over all devices. Scores of different counts cannot be compared.
        seed: image i depends on it and i alone, so that every scoring starts from the same noise.
        weights: sample with the averaged (ema) or the raw weights.
        samplers: named samplers; without any, the model's usual one (of diffusion, ddim-50); setting one to null
            removes it. The lowest distance of any is `score/METRIC_best`.
        batch_size: images sampled at once on each device.
        max_seconds: diffexp skips samplers whose part of one scoring would take longer; null is no limit.
        max_time_fraction: diffexp skips a scoring that would bring the time for scores above this share of the time
            since training started (or was resumed); null is no limit.
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
            yield "weights", "must be raw when ema is null"
        if not any(self.samplers.values()):
            yield "samplers", "must name at least one; score: null switches scores off"
