"""Precision and recall of samples, from nearest neighbours of features."""

from functools import cached_property

import torch
from scipy.linalg import hadamard
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
_GROUPS = 16  # groups of sampled images, which form the half samples of recall
_LISTED = 40  # nearest features that are listed, to find the 3rd in a half sample


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

    It depends on sampled images by their neighbours, so the influence of a single one has no meaning, and a jackknife
    overstates the error. Instead, 16 groups of images (image i is in group i mod 16) form 15 pairs of complementary
    halves, balanced by a Hadamard matrix (McCarthy 1969). Half the difference of the recall of two halves has the
    variance of the recall of all images, if this falls as 1/n. The influences of groups are those with these contrasts.
    """

    def _measure(self, summary: FeatureSummary) -> Estimate:
        sample = self._centred(summary.features)
        signs = torch.from_numpy(hadamard(_GROUPS)[:, 1:]).to(sample)  # (groups, contrasts)
        found = _within(self._real, sample, _reach_of_halves(sample, signs)).double().mean(dim=0).cpu()
        contrasts = (found[1::2] - found[2::2]) / 2
        influence = Influence.linear((signs.double().cpu() @ contrasts).numpy(), _GROUPS)
        return Estimate(float(found[0]), influence.error, influence=influence)


def _reach(features: Tensor) -> Tensor:
    """Return the radius (m,) of each feature: the distance to its 3rd nearest other feature."""
    distances = (torch.cdist(rows, features) for rows in torch.split(features, _CHUNK))
    return torch.cat([rank_smallest(each, NEIGHBORS + 1) for each in distances])


def _reach_of_halves(features: Tensor, signs: Tensor) -> Tensor:
    """Return the radii (m, 1 + 2c) among all features, then in both halves of each contrast.

    Features that are not in a half have the radius -1.

    Args:
        features: (m, d).
        signs: ±1 (groups, c), the half of each group in each contrast.
    """
    half = signs[torch.arange(len(features), device=features.device) % len(signs)] > 0  # (m, c)
    members = torch.stack([half, ~half], dim=2).flatten(1)
    listed = min(_LISTED, len(features))
    parts = []
    for rows in torch.split(torch.arange(len(features), device=features.device), _CHUNK):
        distances, nearest = torch.cdist(features[rows], features).topk(listed, largest=False)
        columns = [distances[:, NEIGHBORS]]  # the nearest is the feature itself
        for inside in members.T:
            enough = inside[nearest].cumsum(dim=1) > NEIGHBORS
            place = torch.where(enough.any(dim=1), enough.byte().argmax(dim=1), listed - 1)
            columns.append(distances.gather(1, place[:, None])[:, 0].masked_fill(~inside[rows], -1))
        parts.append(torch.stack(columns, dim=1))
    return torch.cat(parts)


def _within(asked: Tensor, centres: Tensor, reach: Tensor) -> Tensor:
    """Return bool (n, r): whether features (n, d) are within any of the radii `reach` (m, r) of the centres (m, d)."""
    parts = []
    for rows in torch.split(asked, _CHUNK):
        distances = torch.cdist(rows, centres)
        parts.append(torch.stack([(distances <= each).any(dim=1) for each in reach.T], dim=1))
    return torch.cat(parts)
