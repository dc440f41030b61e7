"""What a metric is: images in, a value with its standard error out. A torchmetrics.Metric, usable wherever one is."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torchmetrics
from torch import Tensor

from diffexp.evaluation.extractors.base import Extractor, Features
from diffexp.evaluation.reference import Reference


class Estimate(NamedTuple):
    """The value of a metric.

    Attributes:
        value: the value.
        error: its standard error; None where it is not known.
        expected: what a perfect generator would have at this number of images; None where that is not known.
    """

    value: float
    error: float | None = None
    expected: float | None = None


class Metric(torchmetrics.Metric, ABC):
    """A score of a set of images.

    A metric keeps its state in `add_state`, so that it can be moved, reset and reduced over processes like any metric
    of torchmetrics: in a LightningModule, in a MetricCollection, or on its own.

    Args:
        reference: what to compare with.
        extractor: whose features.
        count: images in the whole set, over all processes; None where that is not known.
    """

    full_state_update: bool = False

    def __init__(self, reference: Reference, extractor: Extractor, count: int | None = None) -> None:
        super().__init__()
        self.reference = reference
        self.extractor = extractor
        self.count = count

    @classmethod
    def available(cls, reference: Reference, extractor: Extractor) -> bool:
        """Whether a reference and an extractor have all that the metric needs."""
        return True

    @abstractmethod
    def update(self, images: Tensor, features: Features | None = None, first: int | None = None) -> None:
        """Add images.

        Args:
            images: uint8 (B, C, H, W).
            features: of the images, if they have been extracted already.
            first: number of the first image in the whole set; None counts on from the images added before.
        """

    @abstractmethod
    def compute(self) -> Estimate:
        """Return the value for all images that were added, on all processes."""
