"""Schemas of the feature extractors."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from omegaconf import MISSING

from diffexp.config.fields import absolute
from diffexp.config.registry import Component, Registry


@dataclass
class ExtractorConfig(Component):
    """A feature extractor. Its builder returns a `diffexp.evaluation.extractors.base.Extractor`."""

    # Fields that hold a path.
    paths: ClassVar[tuple[str, ...]] = ()

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
    weights: str | None = None
    paths: ClassVar[tuple[str, ...]] = ("weights",)


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
    variant: Literal["vit-b-32", "vit-b-16", "vit-l-14", "rn50"] = "vit-b-32"
    weights: str | None = None
    paths: ClassVar[tuple[str, ...]] = ("weights",)


@EXTRACTORS.register("dinov2")
@dataclass
class Dinov2Config(ExtractorConfig):
    """DINOv2 as implemented by torch-fidelity. Code and weights are read from torch.hub's cache, never from a path.

    Keys:
        variant: which of its networks to use.
    """

    name: str = "dinov2"
    extra: ClassVar[str | None] = "inception"
    variant: Literal["vit-s-14", "vit-b-14", "vit-l-14", "vit-g-14"] = "vit-b-14"


@EXTRACTORS.register("digits_v1")
@dataclass
class DigitsExtractorConfig(ExtractorConfig):
    """A small classifier of the 8×8 digits (32 features), shipped with diffexp."""

    name: str = "digits_v1"


@EXTRACTORS.register("fashion_mnist_v1")
@dataclass
class FashionMnistExtractorConfig(ExtractorConfig):
    """A small classifier of Fashion-MNIST at 32×32 (128 features), shipped with diffexp."""

    name: str = "fashion_mnist_v1"


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
