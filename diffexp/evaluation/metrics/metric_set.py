"""All metrics of one set of images."""

from collections.abc import Sequence
from typing import Self

from torch import Tensor

from diffexp.config.schemas.metrics import METRICS
from diffexp.errors import UserError
from diffexp.evaluation.extractors.base import Extractor, Features
from diffexp.evaluation.metrics.base import Estimate, Metric
from diffexp.evaluation.metrics.feature_metric import FeatureMetric
from diffexp.evaluation.reference import Reference


class MetricSet:
    """Metrics of one set of images, computed from one pass through their extractor.

    All instances of `FeatureMetric` share one set of states.

    Args:
        metrics: the metrics by name.
        extractor: their common extractor.
    """

    @classmethod
    def of(cls, reference: Reference, extractor: Extractor, count: int) -> Self:
        """Build all registered metrics that are available for the reference and the extractor.

        Raises:
            UserError: if a plugin has registered something other than a `Metric`.
        """
        metrics: dict[str, Metric] = {}
        for config in (schema() for schema in METRICS.schemas):
            metric = METRICS.builder(config.name)
            if not isinstance(metric, type) or not issubclass(metric, Metric):
                raise UserError(f"metric {config.name}: expected a subclass of Metric, got {metric!r}. Register one.")
            if metric.available(reference, extractor):
                metrics[config.name] = METRICS.build(config, reference, extractor, count).to(extractor.device)
        return cls(metrics, extractor)

    def __init__(self, metrics: dict[str, Metric], extractor: Extractor) -> None:
        self.metrics = metrics
        self.extractor = extractor
        of_features = [each for each in metrics.values() if isinstance(each, FeatureMetric)]
        self._leader = of_features[0] if of_features else None
        self._updated: Sequence[Metric] = [
            each for each in metrics.values() if not isinstance(each, FeatureMetric) or each is self._leader
        ]

    def reset(self) -> None:
        """Reset all metrics."""
        for metric in self._updated:
            metric.reset()

    def update(self, images: Tensor, first: int) -> None:
        """Add uint8 images (B, C, H, W); `first` is the index of the first one in the complete set."""
        self.add(images, self.extractor(images), first)

    def add(self, images: Tensor, features: Features, first: int) -> None:
        """Add images like `update`, with known features."""
        for metric in self._updated:
            metric.update(images, features=features, first=first)

    def compute(self) -> dict[str, Estimate]:
        """Return the values by name; every process must call it."""
        found: dict[str, Estimate] = {}
        summary = None
        if self._leader is not None:
            with self._leader.sync_context():
                summary = self._leader.summary()
        for name, metric in self.metrics.items():
            if isinstance(metric, FeatureMetric):
                assert summary is not None
                found[name] = metric.measure(summary)
            else:
                found[name] = metric.compute()
        return found
