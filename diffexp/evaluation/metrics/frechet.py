"""The Fréchet distance between two sets of images, from mean and covariance of their features, in float64."""

import math
from functools import cached_property

import torch
from torch import Tensor

from diffexp.evaluation.feature_statistics import FeatureSummary, Gaussian
from diffexp.evaluation.metrics.base import Estimate
from diffexp.evaluation.metrics.feature_metric import FeatureMetric
from diffexp.statistics.influence import FOLDS, Influence


class FrechetDistance(FeatureMetric):
    """The squared Fréchet distance between Gaussians of features: FID for Inception-v3 (Heusel et al. 2017).

    Its `Estimate.expected` is its bias: the distance of a perfect generator with as many images.
    """

    higher_is_better: bool = False

    @cached_property
    def _side(self) -> "FrechetReference":
        return FrechetReference(self.reference.gaussian)

    def _measure(self, summary: FeatureSummary) -> Estimate:
        sample, side = summary.gaussian, self._side
        assert sample.count is not None
        influence = side.influence(sample, summary.features)
        return Estimate(side.distance(sample), influence.error, side.expected(sample.count).value, influence)


class FrechetReference:
    """The reference side of the Fréchet distance, which computes the root of its covariance once.

    Args:
        gaussian: mean and covariance of the reference's features.
    """

    def __init__(self, gaussian: Gaussian) -> None:
        self.gaussian = gaussian

    @cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (d,) and eigenvectors (d, d) of the covariance; rounding errors of zeros are set to zero."""
        values, vectors = torch.linalg.eigh(self.gaussian.cov)
        return _without_rounding(values), vectors

    @cached_property
    def _root(self) -> Tensor:
        """L with L Lᵀ = Σ."""
        values, vectors = self._spectrum
        return vectors * values.sqrt()

    def distance(self, other: Gaussian) -> float:
        """Return the squared Fréchet distance (FID: Heusel et al. 2017).

        It is ‖μ₁ - μ₂‖² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½). Σ₁Σ₂ has the eigenvalues of the symmetric Lᵀ Σ₁ L, so no root of
        a general matrix is needed. Negative values from rounding for equal sets become 0.
        """
        ours = self.gaussian
        middle = self._root.T @ other.cov @ self._root
        trace_of_root = _without_rounding(torch.linalg.eigvalsh(middle)).sqrt().sum()
        squares = (other.mean - ours.mean).square().sum()
        return max(0.0, float(squares + other.cov.trace() + ours.cov.trace() - 2 * trace_of_root))

    def influence(self, other: Gaussian, features: Tensor) -> Influence:
        """Return the influence of each image on a sample's distance; the reference is treated as fixed.

        To first order a sample x changes the distance by 2 (μ₁ - μ₂)·y + yᵀ(1 - A)y with y = x - μ₁, where
        A = L (Lᵀ Σ₁ L)^-½ Lᵀ maps N(0, Σ₁) to the reference's N(0, Σ₂). Folds with fewer than two images for each
        feature do not estimate A. The influences are then estimated from all images only, and the error of a distance
        near its smallest value is too large, by at most √2.

        Args:
            other: mean and covariance of the sample; its count must be known.
            features: (m, d), features of some or all of the sample, evenly spaced.
        """
        assert other.count is not None
        full = self._influence(other.mean, other.cov, features)
        if len(features) < 2 * FOLDS * features.shape[1]:
            return Influence.linear(full.cpu().numpy(), other.count)
        x = features.to(other.mean)
        folds = (x[fold::FOLDS] for fold in range(FOLDS))
        by_fold = torch.stack([self._influence(each.mean(0), each.T.cov(), x) for each in folds], dim=1)
        return Influence.of_folds(full.cpu().numpy(), by_fold.cpu().numpy(), other.count)

    def _influence(self, mean: Tensor, cov: Tensor, features: Tensor) -> Tensor:
        """Return the first-order influences (m,) of features (m, d) on the distance of a sample with these moments."""
        values, vectors = torch.linalg.eigh(self._root.T @ cov @ self._root)
        values = _without_rounding(values).sqrt()
        kept = values > 0
        y = features.to(mean) - mean
        along = y @ (self._root @ vectors[:, kept])
        influence: Tensor = 2 * y @ (mean - self.gaussian.mean) + y.square().sum(1)
        influence -= (along.square() / values[kept]).sum(1)
        return influence

    def expected(self, count: int) -> Estimate:
        """Return the distance of `count` images from a perfect generator, for Gaussian features.

        To second order, the distance of two samples of one Gaussian, of sizes N and M, has the mean
        (1/N + 1/M) [5/4 tr Σ + ½ Σ_ij λ_i λ_j/(λ_i + λ_j)]. `error` is its standard deviation.
        """
        mean, deviation = self._second_order
        scale = 1 / count + (1 / self.gaussian.count if self.gaussian.count is not None else 0.0)
        return Estimate(scale * mean, scale * deviation)

    @cached_property
    def _second_order(self) -> tuple[float, float]:
        """N times the mean and standard deviation of the distance of N samples from their own Gaussian."""
        values = self._spectrum[0]
        pairs = values[:, None] * values / (values[:, None] + values).clamp(min=torch.finfo(values.dtype).tiny)
        mean = 1.25 * values.sum() + 0.5 * pairs.sum()
        # z² λ_i of the means, z² λ_i/2 of the variances, z² λ_iλ_j/(λ_i+λ_j) of the covariances; Var z² = 2
        variance = 2 * values.square().sum() + pairs.square().sum() - pairs.diagonal().square().sum()
        variance += 2 * (values / 2).square().sum()
        return float(mean), math.sqrt(variance)


def _without_rounding(values: Tensor) -> Tensor:
    """Set eigenvalues of a positive semi-definite matrix to 0 if they are within rounding error of 0."""
    negligible = values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    return torch.where(values > negligible, values, 0.0)
