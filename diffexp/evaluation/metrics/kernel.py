"""The kernel distance between two sets of images, from individual features: unbiased at any number of images."""

from functools import cached_property

import torch
from torch import Tensor

from diffexp.evaluation.extractors.base import Extractor
from diffexp.evaluation.feature_statistics import FeatureSummary, at_most
from diffexp.evaluation.metrics.base import Estimate
from diffexp.evaluation.metrics.feature_metric import FeatureMetric
from diffexp.evaluation.reference import Reference
from diffexp.statistics.influence import FOLDS, Influence

MOST = 10_000  # features per side, as is customary
_CHUNK = 2_000  # rows of the matrix of pairs per chunk


class KernelDistance(FeatureMetric):
    """The unbiased squared MMD with a cubic kernel: KID for Inception-v3 (Bińkowski et al. 2018)."""

    higher_is_better: bool = False

    @classmethod
    def available(cls, reference: Reference, extractor: Extractor) -> bool:
        """Whether the reference has features of individual images."""
        return reference.features is not None

    @cached_property
    def _side(self) -> "KernelReference":
        assert self.reference.features is not None
        return KernelReference(self.reference.features)

    def _measure(self, summary: FeatureSummary) -> Estimate:
        return self._side.distance(summary.features)


class KernelReference:
    """The reference side of the kernel distance, which computes the kernel among its own features once.

    Args:
        features: features (m, d); if there are more than 10,000, that many, evenly spaced, are used.
    """

    def __init__(self, features: Tensor) -> None:
        self.features = at_most(features, MOST)

    @cached_property
    def _own_mean(self) -> float:
        """The mean of the kernel over pairs of different features."""
        m = len(self.features)
        return float(_kernel_sums(self.features, self.features).sum()) / (m * (m - 1))

    def distance(self, features: Tensor) -> Estimate:
        """Return the unbiased squared MMD with the kernel (x·y/d + 1)³ over all pairs (KID: Bińkowski et al. 2018).

        It is the mean of h(x_i, x_j) = k(x_i, x_j) - g(x_i) - g(x_j) + c over pairs of the sample. Here g is the mean
        of the kernel with the reference, which is treated as fixed, and c that within it. The influence of x_i is twice
        the mean of h(x_i, ·), and its estimate from a fold is over the images of that fold.

        Args:
            features: features (m, d) of at least 40 images; at most 10,000, evenly spaced, are used.
        """
        features = at_most(features, MOST)
        n, constant = len(features), self._own_mean
        within = _kernel_sums(features, features)  # (n, folds)
        between = _kernel_sums(features, self.features).sum(1) / len(self.features)  # g, (n,)
        sizes = torch.tensor([len(features[fold::FOLDS]) for fold in range(FOLDS)]).to(between)
        fold_means = torch.stack([between[fold::FOLDS].mean() for fold in range(FOLDS)])
        by_fold = 2 * (within / sizes - between[:, None] - fold_means + constant)
        full = 2 * (within.sum(1) - (n - 1) * between - (between.sum() - between)) / (n - 1) + 2 * constant
        influence = Influence.of_folds(full.cpu().numpy(), by_fold.cpu().numpy(), n)
        return Estimate(float(full.mean()) / 2, influence.error, 0.0, influence)


def _kernel_sums(x: Tensor, y: Tensor) -> Tensor:
    """Return float64 (n, 3): for each of x (n, d), sums of the kernel over the folds of y, without x itself."""
    same = x is y
    folds = torch.arange(len(y), device=x.device) % FOLDS
    y = y.double()
    sums = torch.cat(
        [
            torch.zeros(len(rows), FOLDS, dtype=torch.float64, device=x.device).index_add_(
                1, folds, (rows @ y.T / x.shape[1] + 1) ** 3
            )
            for rows in torch.split(x.double(), _CHUNK)
        ]
    )
    if same:
        own = (y.square().sum(dim=1) / x.shape[1] + 1) ** 3
        sums[torch.arange(len(y), device=x.device), folds] -= own
    return sums
