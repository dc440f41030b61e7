"""The kernel distance between two sets of images, from individual features: unbiased at any number of images."""

from functools import cached_property

import torch
from torch import Tensor

from diffexp.evaluation.extractors.base import Extractor
from diffexp.evaluation.feature_statistics import FeatureSummary, at_most
from diffexp.evaluation.metrics.base import Estimate
from diffexp.evaluation.metrics.feature_metric import FeatureMetric
from diffexp.evaluation.reference import Reference

MOST = 10_000  # features per side, as is customary
_GROUPS = 20  # blocks of the jackknife
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
    def _own(self) -> Tensor:
        return _block_sums(self.features, self.features)

    def distance(self, features: Tensor) -> Estimate:
        """Return the unbiased squared MMD with the kernel (x·y/d + 1)³ over all pairs (KID: Bińkowski et al. 2018).

        The error is a block jackknife over 20 blocks of the sample. The reference is treated as fixed, as for the
        Fréchet distance. If the two sets are statistically indistinguishable, the error is too large by about √2.

        Args:
            features: features (m, d) of at least 40 images; at most 10,000, evenly spaced, are used.
        """
        features = at_most(features, MOST)
        theirs, between = _block_sums(features, features), _block_sums(features, self.features)
        sizes = _block_sizes(features), _block_sizes(self.features)
        everything = torch.ones(_GROUPS, dtype=torch.float64, device=features.device)
        value = _mmd(theirs, between, self._own, sizes, everything)
        blocks = torch.eye(_GROUPS).to(everything)
        without = torch.stack([_mmd(theirs, between, self._own, sizes, everything - block) for block in blocks])
        error = ((_GROUPS - 1) / _GROUPS * (without - without.mean()).square().sum()).sqrt()
        return Estimate(float(value), float(error), 0.0)


def _mmd(theirs: Tensor, between: Tensor, ours: Tensor, sizes: tuple[Tensor, Tensor], kept: Tensor) -> Tensor:
    """Return the estimate from the sample's blocks with kept = 1; sums within a set exclude self-pairs."""
    n, m = sizes[0] @ kept, sizes[1].sum()
    within = kept @ theirs @ kept / (n * (n - 1)) + ours.sum() / (m * (m - 1))
    return within - 2 * (kept @ between).sum() / (n * m)


def _block_sums(x: Tensor, y: Tensor) -> Tensor:
    """Return sums (20, 20) of the kernel over pairs of blocks; if x is y, without self-pairs."""
    same = x is y
    x_blocks = torch.arange(len(x), device=x.device) * _GROUPS // len(x)
    y_blocks = torch.arange(len(y), device=x.device) * _GROUPS // len(y)
    sums = torch.zeros(_GROUPS, _GROUPS, dtype=torch.float64, device=x.device)
    y = y.double()
    for rows, blocks in zip(torch.split(x.double(), _CHUNK), torch.split(x_blocks, _CHUNK), strict=True):
        by_column = torch.zeros(len(rows), _GROUPS, dtype=torch.float64, device=x.device)
        by_column.index_add_(1, y_blocks, (rows @ y.T / x.shape[1] + 1) ** 3)
        sums.index_add_(0, blocks, by_column)
    if same:
        diagonal = (y.square().sum(dim=1) / x.shape[1] + 1) ** 3
        sums.diagonal().index_add_(0, x_blocks, -diagonal)
    return sums


def _block_sizes(features: Tensor) -> Tensor:
    blocks = torch.arange(len(features), device=features.device) * _GROUPS // len(features)
    return torch.bincount(blocks, minlength=_GROUPS).double()
