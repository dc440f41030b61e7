"""How good and how varied samples are, by the nearest neighbours of features."""

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
MOST = 10_000  # features on each side of precision and recall: the custom of the field
_CHUNK = 1_000  # rows of a matrix of distances at a time


class _ManifoldMetric(FeatureMetric):
    """Precision or recall (Kynkäänniemi et al. 2019).

    An image reaches as far as its 3rd nearest neighbour of its own set. Of more than 10,000 features of either side, as
    many are taken, evenly spread. Precision says nothing alone: uniform noise had .8 on Fashion-MNIST.
    """

    higher_is_better: bool = True

    @classmethod
    def available(cls, reference: Reference, extractor: Extractor) -> bool:
        """Whether features of single real images are known."""
        return reference.features is not None

    @cached_property
    def _mean(self) -> Tensor:
        assert self.reference.features is not None
        return self.reference.features.double().mean(dim=0).to(self.reference.features)

    def _centred(self, features: Tensor) -> Tensor:
        # around the mean: distances between large vectors lose their digits in products of matrices
        return at_most(features, MOST) - self._mean

    @cached_property
    def _real(self) -> Tensor:
        assert self.reference.features is not None
        return self._centred(self.reference.features)


class Precision(_ManifoldMetric):
    """The share of the sample within the reach of some real image."""

    @cached_property
    def _real_reach(self) -> Tensor:
        return _reach(self._real)

    def _measure(self, summary: FeatureSummary) -> Estimate:
        return Estimate(_within(self._centred(summary.features), self._real, self._real_reach))


class Recall(_ManifoldMetric):
    """The share of the real images within the reach of a sampled one."""

    def _measure(self, summary: FeatureSummary) -> Estimate:
        sample = self._centred(summary.features)
        return Estimate(_within(self._real, sample, _reach(sample)))


def _reach(features: Tensor) -> Tensor:
    """The distance (m,) of each to its 3rd nearest other one."""
    distances = (torch.cdist(rows, features) for rows in torch.split(features, _CHUNK))
    return torch.cat([rank_smallest(each, NEIGHBORS + 1) for each in distances])


def _within(asked: Tensor, centres: Tensor, reach: Tensor) -> float:
    """The share of the asked features (n, d) that lie within the reach (m,) of one of the centres (m, d)."""
    found = [(torch.cdist(rows, centres) <= reach).any(dim=1) for rows in torch.split(asked, _CHUNK)]
    return float(torch.cat(found).double().mean())
