"""Schemas of the metrics that scores consist of: what tables, reports and sweeps know without computing them."""

from dataclasses import dataclass
from typing import ClassVar

from diffexp.config.registry import Component, Registry


@dataclass
class MetricConfig(Component):
    """A metric. Its builder gets the reference, the extractor and the number of images."""

    # The heading of its table; metrics that are only read together have the same one.
    title: ClassVar[str] = ""
    # How its values are written.
    format: ClassVar[str] = ".4g"
    # What it is called where the extractor is the genuine Inception-v3.
    inception_name: ClassVar[str | None] = None


METRICS = Registry("metric", MetricConfig, "diffexp.evaluation.metrics:{schema}")


def metrics() -> list[type[MetricConfig]]:
    """Return the schemas of all metrics, in their order."""
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
    """Share of the sample within the reach of a real image."""

    name: str = "precision"
    title: ClassVar[str] = "Precision / recall"
    format: ClassVar[str] = ".3f"


@METRICS.register("recall")
@dataclass
class RecallConfig(MetricConfig):
    """Share of the real images within the reach of a sampled one."""

    name: str = "recall"
    title: ClassVar[str] = "Precision / recall"
    format: ClassVar[str] = ".3f"


_NEAREST = (
    "Distance to the nearest training image, as a multiple of that between training images / share nearer than all but "
    "1 % of these"
)


@METRICS.register("nn_distance_ratio")
@dataclass
class NearestDistanceRatioConfig(MetricConfig):
    """Distance to the nearest training image, as a multiple of that between training images: 1 is as it should be."""

    name: str = "nn_distance_ratio"
    title: ClassVar[str] = _NEAREST
    format: ClassVar[str] = ".3f"


@METRICS.register("memorized_fraction")
@dataclass
class MemorizedFractionConfig(MetricConfig):
    """Share of the images that are nearer to a training image than all but 1 % of those are to each other."""

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
    """The full name of a metric: ``fid50k`` and ``kid50k`` with the genuine Inception-v3, else ``fd_digits_v1_500``.

    Args:
        metric: "fd", "kd", "precision", …, maybe with "expected_" before it or "_error" behind it.
        extractor: its name in metrics.
        count: images in one score.
        is_inception: whether distances may be called FID and KID.
    """
    short = f"{count // 1000}k" if count % 1000 == 0 else str(count)
    special = {schema.name: schema.inception_name for schema in metrics() if schema.inception_name is not None}
    if is_inception and metric in special:
        return f"{special[metric]}{short}"
    return f"{metric}_{extractor}_{short}"
