"""Metrics that detect copies of training images by the distance to the nearest training image."""

from torch import Tensor

from diffexp.evaluation.extractors.base import Extractor
from diffexp.evaluation.feature_statistics import FeatureSummary
from diffexp.evaluation.metrics.base import Estimate
from diffexp.evaluation.metrics.feature_metric import FeatureMetric
from diffexp.evaluation.reference import Reference


class _NearestMetric(FeatureMetric):
    """A metric of the distances of 1,000 sampled images to their nearest training image."""

    @classmethod
    def available(cls, reference: Reference, extractor: Extractor) -> bool:
        """Whether the reference has all images that a model may have memorised."""
        return reference.features is not None and reference.typical is not None

    def _distances(self, summary: FeatureSummary) -> Tensor:
        return summary.once(self.reference.distances_to)

    @property
    def _typical(self) -> Tensor:
        assert self.reference.typical is not None
        return self.reference.typical


class NearestDistanceRatio(_NearestMetric):
    """The mean distance to the nearest training image, as a multiple of that between different training images.

    1 is expected.
    """

    def _measure(self, summary: FeatureSummary) -> Estimate:
        found = self._distances(summary)
        return Estimate(float(found.mean() / self._typical.mean()), None, 1.0)


class MemorizedFraction(_NearestMetric):
    """The fraction of images closer to a training image than 99 % of training images are to their nearest neighbour.

    .01 is expected; copies have 1.
    """

    higher_is_better: bool = False

    def _measure(self, summary: FeatureSummary) -> Estimate:
        near = self._typical.quantile(0.01)
        return Estimate(float((self._distances(summary) <= near).double().mean()), None, 0.01)
