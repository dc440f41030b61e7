"""The interface of metrics: a torchmetrics.Metric that maps images to a value with its standard error."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torchmetrics
from torch import Tensor

from diffexp.evaluation.extractors.base import Extractor, Features
from diffexp.evaluation.reference import Reference
from diffexp.statistics.influence import Influence


class Estimate(NamedTuple):
    """The value of a metric.

    Attributes:
        value: the value.
        error: its standard error; None if unknown.
        expected: the value of a perfect generator at this number of images; None if unknown.
        influence: the influence of each image on the value, for comparisons of sets from the same seeds; None if
            unknown.
    """

    value: float
    error: float | None = None
    expected: float | None = None
    influence: Influence | None = None


class Metric(torchmetrics.Metric, ABC):
    """A score of a set of images.

    A metric registers its state with `add_state`, so it can be moved, reset and reduced over processes like any
    torchmetrics metric: in a LightningModule, in a MetricCollection, or alone.

    Args:
        reference: the reference to compare with.
        extractor: the feature extractor.
        count: images in the complete set, over all processes; None if unknown.
    """

    full_state_update: bool = False

    def __init__(self, reference: Reference, extractor: Extractor, count: int | None = None) -> None:
        super().__init__()
        self.reference = reference
        self.extractor = extractor
        self.count = count

    @classmethod
    def available(cls, reference: Reference, extractor: Extractor) -> bool:
        """Whether a reference and an extractor provide what the metric needs."""
        return True

    @abstractmethod
    def update(self, images: Tensor, features: Features | None = None, first: int | None = None) -> None:
        """Add images.

        Args:
            images: uint8 (B, C, H, W).
            features: the images' features; None extracts them.
            first: index of the first image in the complete set; None continues after the images added before.
        """

    @abstractmethod
    def compute(self) -> Estimate:
        """Return the value for the images added on all processes."""
