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
from diffexp.statistics.influence import Influence

NEIGHBORS = 3  # k of precision and recall
MOST = 10_000  # features per side, as is customary
_CHUNK = 1_000  # rows of the matrix of distances per chunk
_GROUPS = 20  # groups of sampled images; the jackknife of recall omits one at a time
_LISTED = 16  # nearest features that are listed, to find the 3rd without a group


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
        within = _within(self._centred(summary.features), self._real, self._real_reach[:, None])[:, 0].double()
        influence = Influence.linear(within.cpu().numpy(), len(within))
        return Estimate(float(within.mean()), influence.error, influence=influence)


class Recall(_ManifoldMetric):
    """The fraction of real images within the radius of some sampled image.

    It depends on single images by their neighbours, for which influences of single images have no meaning. Its error is
    the jackknife that omits one of 20 groups of sampled images in turn; image i is in group i mod 20.
    """

    def _measure(self, summary: FeatureSummary) -> Estimate:
        sample = self._centred(summary.features)
        within = _within(self._real, sample, _reach_without_groups(sample)).double().mean(dim=0)
        everything, without = within[0], within[1:]
        pseudo = _GROUPS * everything - (_GROUPS - 1) * without
        influence = Influence.linear(pseudo.cpu().numpy(), _GROUPS)
        return Estimate(float(everything), influence.error, influence=influence)


def _reach(features: Tensor) -> Tensor:
    """Return the radius (m,) of each feature: the distance to its 3rd nearest other feature."""
    distances = (torch.cdist(rows, features) for rows in torch.split(features, _CHUNK))
    return torch.cat([rank_smallest(each, NEIGHBORS + 1) for each in distances])


def _reach_without_groups(features: Tensor) -> Tensor:
    """Return the radii (m, 21): of all features, then without each group, whose own features have the radius -1."""
    groups = torch.arange(len(features), device=features.device) % _GROUPS
    listed = min(_LISTED, len(features))
    parts = []
    for rows in torch.split(features, _CHUNK):
        distances, nearest = torch.cdist(rows, features).topk(listed, largest=False)  # the first is the feature itself
        columns = [distances[:, NEIGHBORS]]
        for group in range(_GROUPS):
            left = (groups[nearest] != group).cumsum(dim=1) > NEIGHBORS
            place = torch.where(left.any(dim=1), left.byte().argmax(dim=1), listed - 1)
            columns.append(distances.gather(1, place[:, None])[:, 0])
        parts.append(torch.stack(columns, dim=1))
    reach = torch.cat(parts)
    reach[torch.arange(len(features), device=features.device), 1 + groups] = -1
    return reach


def _within(asked: Tensor, centres: Tensor, reach: Tensor) -> Tensor:
    """Return bool (n, r): whether features (n, d) are within any of the radii `reach` (m, r) of the centres (m, d)."""
    parts = []
    for rows in torch.split(asked, _CHUNK):
        distances = torch.cdist(rows, centres)
        parts.append(torch.stack([(distances <= each).any(dim=1) for each in reach.T], dim=1))
    return torch.cat(parts)
