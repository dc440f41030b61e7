"""The metrics of image sets, each a torchmetrics.Metric."""

from diffexp.evaluation.metrics.base import Estimate, Metric
from diffexp.evaluation.metrics.feature_metric import FeatureMetric
from diffexp.evaluation.metrics.frechet import FrechetDistance
from diffexp.evaluation.metrics.inception_score import InceptionScore
from diffexp.evaluation.metrics.kernel import KernelDistance
from diffexp.evaluation.metrics.nearest import MemorizedFraction, NearestDistanceRatio
from diffexp.evaluation.metrics.precision_recall import Precision, Recall

__all__ = [
    "Estimate",
    "FeatureMetric",
    "FrechetDistance",
    "InceptionScore",
    "KernelDistance",
    "MemorizedFraction",
    "Metric",
    "NearestDistanceRatio",
    "Precision",
    "Recall",
]
