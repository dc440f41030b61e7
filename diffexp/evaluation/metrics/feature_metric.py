"""Metrics that depend only on statistics of features."""

from abc import abstractmethod

from torch import Tensor

from diffexp.evaluation.extractors.base import Extractor, Features
from diffexp.evaluation.feature_statistics import FeatureStates, FeatureSummary
from diffexp.evaluation.metrics.base import Estimate, Metric
from diffexp.evaluation.reference import Reference
from diffexp.system.devices import full_float32


class FeatureMetric(FeatureStates, Metric):
    """A metric of the mean, covariance and individual features.

    All such metrics have the same states, which torchmetrics' MetricCollection and `MetricSet` store once.
    """

    def __init__(self, reference: Reference, extractor: Extractor, count: int | None = None) -> None:
        super().__init__(extractor.dim, count, reference=reference, extractor=extractor)

    def update(self, images: Tensor, features: Features | None = None, first: int | None = None) -> None:
        """Add images, with the arguments of `Metric.update`."""
        self.add((self.extractor(images) if features is None else features).values, first)

    def compute(self) -> Estimate:
        """Return the value for the images added on all processes."""
        return self.measure(self.summary())

    def measure(self, summary: FeatureSummary) -> Estimate:
        """Return the value for images with these statistics, computed in float64 and full float32."""
        with full_float32():
            return self._measure(summary)

    @abstractmethod
    def _measure(self, summary: FeatureSummary) -> Estimate:
        """Compute the value."""
