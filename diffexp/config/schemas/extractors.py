"""Schemas of the feature extractors."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Self

from omegaconf import MISSING
from safetensors import SafetensorError, safe_open

from diffexp.config.context import Context
from diffexp.config.fields import absolute
from diffexp.config.registry import Component, Registry

_FEWEST_FOR_PAIRS = 40  # two images in each block of the kernel distance's jackknife


def count_problem(count: int, features: int, extractor: str) -> str | None:
    """Return the problem of a number of images per score, or None: at least 40, and as many as features.

    With fewer, the covariance is singular.
    """
    fewest = max(features, _FEWEST_FOR_PAIRS)
    if count >= fewest:
        return None
    fewer = ", or an extractor with fewer features" if fewest == features else ""
    return (
        f"expected at least {fewest} images for the {features} features of {extractor}, got {count}. "
        f"Use more images{fewer}."
    )


class ExtractorSizes(NamedTuple):
    """Sizes of an extractor, as far as they are known without loading it.

    Attributes:
        features: number of features; None if unknown.
        image_shape: (C, H, W) of the images that it accepts; None for any, or if unknown.
    """

    features: int | None = None
    image_shape: tuple[int, int, int] | None = None


@dataclass
class ExtractorConfig(Component):
    """A feature extractor. Its builder returns a `diffexp.evaluation.extractors.base.Extractor`."""

    # Fields that hold a path.
    paths: ClassVar[tuple[str, ...]] = ()
    # What to do about a path where there is no file.
    remedy: ClassVar[str] = "Correct the path."

    def sizes(self) -> ExtractorSizes:
        """Return the sizes that its config determines."""
        return ExtractorSizes()

    def sizes_of_file(self) -> ExtractorSizes:
        """Return the sizes that the file of its weights determines."""
        return ExtractorSizes()

    def unavailable(self, context: Context) -> Iterator[tuple[str, str]]:
        yield from super().unavailable(context)
        for key in self.paths:
            path = getattr(self, key)
            if path is not None and not Path(path).expanduser().is_file():
                yield key, f"expected a file, got {path}, which does not exist. {self.remedy}"

    def with_absolute_paths(self) -> Self:
        """Return a copy with absolute paths, which is valid in any working directory."""
        return absolute(self, self.paths)


EXTRACTORS = Registry("extractor", ExtractorConfig, "diffexp.evaluation.extractors.{name}:load")


@EXTRACTORS.register("inception")
@dataclass
class InceptionConfig(ExtractorConfig):
    """Inception-v3 as implemented by torch-fidelity (2048 features): the network of FID.

    Keys:
        weights: file of the weights; null tries $DIFFEXP_INCEPTION_WEIGHTS, then torch's cache, then downloads them to
            that cache.
    """

    name: str = "inception"
    extra: ClassVar[str | None] = "inception"
    packages: ClassVar[tuple[str, ...]] = ("torch_fidelity",)
    weights: str | None = None
    paths: ClassVar[tuple[str, ...]] = ("weights",)
    remedy: ClassVar[str] = "Correct the path, or set it to null, which downloads the weights."

    def sizes(self) -> ExtractorSizes:
        return ExtractorSizes(2048)


@EXTRACTORS.register("clip")
@dataclass
class ClipConfig(ExtractorConfig):
    """CLIP's image encoder as implemented by torch-fidelity.

    Keys:
        variant: which of OpenAI's networks to use.
        weights: OpenAI's file of its weights; null uses the one in torch's cache.
    """

    name: str = "clip"
    extra: ClassVar[str | None] = "inception"
    packages: ClassVar[tuple[str, ...]] = ("torch_fidelity",)
    variant: Literal["vit-b-32", "vit-b-16", "vit-l-14", "rn50"] = "vit-b-32"
    weights: str | None = None
    paths: ClassVar[tuple[str, ...]] = ("weights",)
    remedy: ClassVar[str] = "Correct the path, or set it to null, which uses the weights in torch's cache."

    def sizes(self) -> ExtractorSizes:
        return ExtractorSizes({"vit-b-32": 512, "vit-b-16": 512, "vit-l-14": 768, "rn50": 1024}[self.variant])


@EXTRACTORS.register("dinov2")
@dataclass
class Dinov2Config(ExtractorConfig):
    """DINOv2 as implemented by torch-fidelity. Code and weights are read from torch.hub's cache, never from a path.

    Keys:
        variant: which of its networks to use.
    """

    name: str = "dinov2"
    extra: ClassVar[str | None] = "inception"
    packages: ClassVar[tuple[str, ...]] = ("torch_fidelity",)
    variant: Literal["vit-s-14", "vit-b-14", "vit-l-14", "vit-g-14"] = "vit-b-14"

    def sizes(self) -> ExtractorSizes:
        return ExtractorSizes({"vit-s-14": 384, "vit-b-14": 768, "vit-l-14": 1024, "vit-g-14": 1536}[self.variant])


@EXTRACTORS.register("digits_v1")
@dataclass
class DigitsExtractorConfig(ExtractorConfig):
    """A small classifier of the 8×8 digits (32 features), shipped with diffexp."""

    name: str = "digits_v1"

    def sizes(self) -> ExtractorSizes:
        return ExtractorSizes(32, (1, 8, 8))


@EXTRACTORS.register("fashion_mnist_v1")
@dataclass
class FashionMnistExtractorConfig(ExtractorConfig):
    """A small classifier of Fashion-MNIST at 32×32 (128 features), shipped with diffexp."""

    name: str = "fashion_mnist_v1"

    def sizes(self) -> ExtractorSizes:
        return ExtractorSizes(128, (1, 32, 32))


@EXTRACTORS.register("classifier")
@dataclass
class ClassifierConfig(ExtractorConfig):
    """A small classifier trained by `diffexp extractor`.

    Keys:
        weights: file that `diffexp extractor` wrote.
    """

    name: str = "classifier"
    weights: str = MISSING
    paths: ClassVar[tuple[str, ...]] = ("weights",)

    def sizes_of_file(self) -> ExtractorSizes:
        path = Path(self.weights).expanduser()
        try:
            return _classifier_sizes(path, path.stat().st_mtime_ns)
        except (OSError, SafetensorError, KeyError, ValueError, TypeError):  # loading it reports what is wrong
            return ExtractorSizes()


@lru_cache(maxsize=16)
def _classifier_sizes(path: Path, mtime_ns: int) -> ExtractorSizes:
    with safe_open(os.fspath(path), framework="np") as file:
        about = file.metadata() or {}
    channels, height, width = json.loads(about["image_shape"])
    return ExtractorSizes(int(json.loads(about["features"])), (channels, height, width))


def extractor_problems(
    config: ExtractorConfig, sizes: ExtractorSizes, count: int | None, context: Context
) -> Iterator[tuple[str, str]]:
    """Yield the problems of ``count`` images per score and of the experiment's images with an extractor of these sizes.

    A count of None, and a context without images, are not checked.
    """
    if count is not None and sizes.features is not None:
        problem = count_problem(count, sizes.features, config.name)
        if problem is not None:
            yield "count", problem
    shape = (context.channels, context.image_size, context.image_size)
    if sizes.image_shape is not None and context.image_size and shape != sizes.image_shape:
        yield (
            "extractor.name",
            f"expected an extractor of images {shape} (channels, height, width), got {config.name}, which takes "
            f"{sizes.image_shape}. Use another, or train one with diffexp extractor CONFIG name=…",
        )
