"""Schemas of the metrics in a score: the properties that tables, reports and sweeps need without computing them."""

from dataclasses import dataclass
from typing import ClassVar

from diffexp.config.registry import Component, Registry


@dataclass
class MetricConfig(Component):
    """A metric. Its builder gets the reference, the extractor and the number of images."""

    # Heading of its table; metrics with the same title share one.
    title: ClassVar[str] = ""
    # Format of its values.
    format: ClassVar[str] = ".4g"
    # Its name with the genuine Inception-v3.
    inception_name: ClassVar[str | None] = None


METRICS = Registry("metric", MetricConfig, "diffexp.evaluation.metrics:{schema}")


def metrics() -> list[type[MetricConfig]]:
    """Return the schemas of all metrics in the order of registration."""
    return [schema for schema in METRICS.schemas if issubclass(schema, MetricConfig)]


@METRICS.register("fd")
@dataclass
class FrechetDistanceConfig(MetricConfig):
    """The Fréchet distance; FID with Inception-v3."""

    name: str = "fd"
    title: ClassVar[str] = "Fréchet distance"
    inception_name: ClassVar[str | None] = "fid"


@METRICS.register("kd")
@dataclass
class KernelDistanceConfig(MetricConfig):
    """The kernel distance; KID with Inception-v3."""

    name: str = "kd"
    title: ClassVar[str] = "Kernel distance (unbiased: a perfect generator would have 0)"
    inception_name: ClassVar[str | None] = "kid"


@METRICS.register("precision")
@dataclass
class PrecisionConfig(MetricConfig):
    """Fraction of the samples within the neighbourhood of a real image."""

    name: str = "precision"
    title: ClassVar[str] = "Precision / recall"
    format: ClassVar[str] = ".3f"


@METRICS.register("recall")
@dataclass
class RecallConfig(MetricConfig):
    """Fraction of the real images within the neighbourhood of a sample."""

    name: str = "recall"
    title: ClassVar[str] = "Precision / recall"
    format: ClassVar[str] = ".3f"


_NEAREST = (
    "Distance to the nearest training image, relative to that between training images / fraction nearer than all but "
    "1 % of these"
)


@METRICS.register("nn_distance_ratio")
@dataclass
class NearestDistanceRatioConfig(MetricConfig):
    """Distance to the nearest training image, relative to that between training images; ideally 1."""

    name: str = "nn_distance_ratio"
    title: ClassVar[str] = _NEAREST
    format: ClassVar[str] = ".3f"


@METRICS.register("memorized_fraction")
@dataclass
class MemorizedFractionConfig(MetricConfig):
    """Fraction of the images nearer to a training image than all but 1 % of training images are to one another."""

    name: str = "memorized_fraction"
    title: ClassVar[str] = _NEAREST
    format: ClassVar[str] = ".3f"


@METRICS.register("inception_score")
@dataclass
class InceptionScoreConfig(MetricConfig):
    """The Inception score."""

    name: str = "inception_score"
    title: ClassVar[str] = "Inception score"


def metric_name(metric: str, extractor: str, count: int, is_inception: bool) -> str:
    """Return a metric's full name: ``fid50k`` and ``kid50k`` with the genuine Inception-v3, else ``fd_digits_v1_500``.

    Args:
        metric: "fd", "kd", "precision", …, optionally with the prefix `expected_` or the suffix `_error`.
        extractor: the extractor's name in metrics.
        count: images per score.
        is_inception: whether distances may be called FID and KID.
    """
    short = f"{count // 1000}k" if count % 1000 == 0 else str(count)
    special = {schema.name: schema.inception_name for schema in metrics() if schema.inception_name is not None}
    if is_inception and metric in special:
        return f"{special[metric]}{short}"
    return f"{metric}_{extractor}_{short}"
