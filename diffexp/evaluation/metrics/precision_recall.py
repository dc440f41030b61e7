"""Precision and recall of samples, from nearest neighbours of features."""

from functools import cached_property

import torch
from torch import Tensor

from diffexp.evaluation.extractors.base import Extractor
from diffexp.evaluation.feature_statistics import FeatureSummary, at_most
from diffexp.evaluation.metrics.base import Estimate
from diffexp.evaluation.metrics.feature_metric import FeatureMetric
from diffexp.evaluation.nearest_neighbors import rank_smallest
from diffexp.evaluation.reference import Reference

NEIGHBORS = 3  # k of precision and recall
MOST = 10_000  # features per side, as is customary
_CHUNK = 1_000  # rows of the matrix of distances per chunk


class _ManifoldMetric(FeatureMetric):
    """Precision or recall (Kynkäänniemi et al. 2019).

    The radius of an image is the distance to its 3rd nearest neighbour in its own set. At most 10,000 features per
    side, evenly spaced, are used. Precision alone is not informative: uniform noise had .8 on Fashion-MNIST.
    """

    higher_is_better: bool = True

    @classmethod
    def available(cls, reference: Reference, extractor: Extractor) -> bool:
        """Whether the reference has features of individual images."""
        return reference.features is not None

    @cached_property
    def _mean(self) -> Tensor:
        assert self.reference.features is not None
        return self.reference.features.double().mean(dim=0).to(self.reference.features)

    def _centred(self, features: Tensor) -> Tensor:
        # centred, because matrix products lose digits of distances between large vectors
        return at_most(features, MOST) - self._mean

    @cached_property
    def _real(self) -> Tensor:
        assert self.reference.features is not None
        return self._centred(self.reference.features)


class Precision(_ManifoldMetric):
    """The fraction of sampled images within the radius of some real image."""

    @cached_property
    def _real_reach(self) -> Tensor:
        return _reach(self._real)

    def _measure(self, summary: FeatureSummary) -> Estimate:
        return Estimate(_within(self._centred(summary.features), self._real, self._real_reach))


class Recall(_ManifoldMetric):
    """The fraction of real images within the radius of some sampled image."""

    def _measure(self, summary: FeatureSummary) -> Estimate:
        sample = self._centred(summary.features)
        return Estimate(_within(self._real, sample, _reach(sample)))


def _reach(features: Tensor) -> Tensor:
    """Return the radius (m,) of each feature: the distance to its 3rd nearest other feature."""
    distances = (torch.cdist(rows, features) for rows in torch.split(features, _CHUNK))
    return torch.cat([rank_smallest(each, NEIGHBORS + 1) for each in distances])


def _within(asked: Tensor, centres: Tensor, reach: Tensor) -> float:
    """Return the fraction of the features (n, d) that are within the radius `reach` (m,) of some centre (m, d)."""
    found = [(torch.cdist(rows, centres) <= reach).any(dim=1) for rows in torch.split(asked, _CHUNK)]
    return float(torch.cat(found).double().mean())
