"""What makes two scores comparable, as one short id."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from diffexp.config.schemas.metrics import metric_name
from diffexp.evaluation.extractors.base import Extractor
from diffexp.evaluation.metrics.precision_recall import NEIGHBORS
from diffexp.evaluation.reference import Reference


@dataclass(frozen=True)
class Protocol:
    """How images are scored: everything but what is compared (model, weights, sampler, seeds).

    Attributes:
        count: images in one score.
        extractor: its name in metrics.
        is_inception: whether distances may be called FID and KID.
        details: plain data, all of it.
    """

    count: int
    extractor: str
    is_inception: bool
    details: dict[str, Any]

    @property
    def id(self) -> str:
        """Eight hexadecimal digits: scores with different ones are not comparable."""
        text = json.dumps(self.details, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def metric(self, name: str) -> str:
        """The full name of a metric; see `metric_name`."""
        return metric_name(name, self.extractor, self.count, self.is_inception)


def protocol(count: int, extractor: Extractor, reference: Reference) -> Protocol:
    """The protocol of scores of `count` images."""
    details = {
        "version": 1,
        "count": count,
        "extractor": extractor.identity,
        "reference": reference.identity,
        "quantisation": "clamp to [-1, 1], round((x + 1) 127.5), uint8",
        "features": "float32",
        "fd": "float64, covariance with n - 1, symmetric eigenvalues",
        "kd": "cubic polynomial kernel, all pairs of at most 10,000 images a side",
        "precision_recall": f"k = {NEIGHBORS}, at most 10,000 images a side",
    }
    return Protocol(count, extractor.name, extractor.is_inception, details)
