"""Schemas of references and of scores during training."""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from diffexp.config.context import Context
from diffexp.config.fields import absolute, number
from diffexp.config.schemas.common import Split, Weights
from diffexp.config.schemas.extractors import ExtractorConfig, InceptionConfig, extractor_problems
from diffexp.config.schemas.samplers import SamplerConfig


def split_problems(split: Split, context: Context) -> Iterator[tuple[str, str]]:
    """Yield ``("split", problem)`` if the dataset has no such split."""
    if split == "held_out" and not context.split_sizes.get(split):
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
        size = context.split_sizes.get(self.split)
        if self.file is None and self.count is not None and size is not None and self.count > size:
            yield "count", f"expected at most {size}, the images of the {self.split} split, got {self.count}."

    def unavailable(self, context: Context) -> Iterator[tuple[str, str]]:
        """Yield the problems of the file of statistics."""
        if self.file is not None:
            problem = statistics_problem(Path(self.file).expanduser())
            if problem is not None:
                yield "file", problem


def statistics_problem(path: Path) -> str | None:
    """Return the problem of a .npz with mu and sigma that its list of arrays shows, or None."""
    try:
        with zipfile.ZipFile(path) as arrays:
            names = {name.removesuffix(".npy") for name in arrays.namelist()}
    except FileNotFoundError:
        return f"there is no file {path}."
    except (OSError, zipfile.BadZipFile, NotImplementedError):
        return f"expected a .npz with mu and sigma, got {path}, which cannot be read as one."
    if {"mu", "sigma"} <= names:
        return None
    return f"expected mu and sigma, got {', '.join(sorted(names)) or 'no arrays'}."


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
        yield from extractor_problems(self.extractor, self.extractor.sizes(), self.count, context)

    def fitting_defaults(self, context: Context) -> Iterator[tuple[str, Any]]:
        """Yield raw weights for a training without an average."""
        if not context.ema:
            yield "weights", "raw"

    def unavailable(self, context: Context) -> Iterator[tuple[str, str]]:
        """Yield the problems of the count and the images with the extractor in a file."""
        yield from extractor_problems(self.extractor, self.extractor.sizes_of_file(), self.count, context)
