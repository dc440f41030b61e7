"""Statistics of image features: sums for mean and covariance, and a bounded number of individual features."""

from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchmetrics
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

FEATURE_BYTES = 80 * 2**20  # 10,240 features of Inception-v3, or 163,840 of 128 numbers


@dataclass(frozen=True)
class Gaussian:
    """Mean (d,) and unbiased covariance (d, d) of the features of `count` images (None: unknown), float64."""

    mean: Tensor
    cov: Tensor
    count: int | None


class FeatureSummary:
    """The statistics of the features of a set of images.

    Args:
        gaussian: mean and covariance over all images.
        features: float32 (m, d), the features of m images evenly spaced in the set; of all images if they fit.
    """

    def __init__(self, gaussian: Gaussian, features: Tensor) -> None:
        self.gaussian = gaussian
        self.features = features
        self._known: dict[Callable[..., Any], Any] = {}

    def once(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``function(features)``, computed at the first call and cached, as several metrics may share it."""
        if function not in self._known:
            self._known[function] = function(self.features)
        found: Tensor = self._known[function]
        return found


class FeatureStates(torchmetrics.Metric, ABC):
    """The states of a metric that accumulates features batch by batch, in memory independent of the number of images.

    Sums are float64. Across processes, torchmetrics sums them and concatenates individual features in rank order.

    Args:
        dim: number of features per image.
        count: images in the complete set, over all processes. With None, all features are kept until they take 80 MB,
            and then every second, fourth, … of them.
        more: arguments of a further base class.
    """

    full_state_update: bool = False
    added: Tensor
    total: Tensor
    outer: Tensor
    kept: list[Tensor]

    def __init__(self, dim: int, count: int | None = None, **more: Any) -> None:
        super().__init__(**more)
        self.count = count
        self._most = max(1, FEATURE_BYTES // (4 * dim))
        self._stride = 1
        self.add_state("added", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(dim, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("outer", torch.zeros(dim, dim, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("kept", [], dist_reduce_fx="cat")

    def reset(self) -> None:
        """Reset all states."""
        super().reset()
        self._stride = 1

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Reduce the states over all processes, even if one has no image."""
        if not len(self.kept):
            self.kept = [self.total.new_zeros(0, len(self.total), dtype=torch.float32)]
        super().sync(*args, **kwargs)

    def add(self, values: Tensor, first: int | None = None) -> None:
        """Add features.

        Args:
            values: float32 (B, dim).
            first: index of their first image in the complete set; None continues after those added before.
        """
        values = values.to(self.total.device)
        start = int(self.added) if first is None else first
        numbers = torch.arange(start, start + len(values), device=values.device)
        doubles = values.double()
        self.total += doubles.sum(dim=0)
        self.outer += doubles.T @ doubles
        self.added += len(values)
        self.kept.append(values[self._chosen(numbers)])
        if self.count is None and sum(map(len, self.kept)) > self._most:
            self._stride *= 2
            self.kept = [dim_zero_cat(self.kept)[::2]]

    def _chosen(self, numbers: Tensor) -> Tensor:
        """Return a mask of the images to keep, evenly spaced in the set."""
        if self.count is None:
            return numbers % self._stride == 0
        size = min(self.count, self._most)
        return (numbers + 1) * size // self.count > numbers * size // self.count

    def summary(self) -> FeatureSummary:
        """Return the statistics of all images.

        Raises:
            ValueError: if there are fewer than two images, or not `count`.
        """
        added = int(self.added)
        if added < 2 or added != (self.count or added):
            raise ValueError(f"expected features of {self.count or 'two or more'} images, got {added}")
        mean = self.total / added
        cov = (self.outer - added * torch.outer(mean, mean)) / (added - 1)
        return FeatureSummary(Gaussian(mean, cov, added), dim_zero_cat(self.kept))


class FeatureStatistics(FeatureStates):
    """Statistics of features as an independent metric, with the arguments of `FeatureStates`."""

    def update(self, values: Tensor, first: int | None = None) -> None:
        """Add features, with the arguments of `FeatureStates.add`."""
        self.add(values, first)

    def compute(self) -> FeatureSummary:
        """Return the statistics of the images of all processes."""
        return self.summary()


def at_most(features: Tensor, most: int) -> Tensor:
    """Return features (m, d), or `most` of them, evenly spaced."""
    if len(features) <= most:
        return features
    return features[torch.arange(most, device=features.device) * len(features) // most]
