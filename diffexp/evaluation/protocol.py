"""Evaluation protocols: everything that two comparable scores share, hashed to a short id."""

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
    """How images are scored: all settings except those compared (model, weights, sampler, seeds).

    Attributes:
        count: images per score.
        extractor: the extractor's name in metrics.
        is_inception: whether distances may be called FID and KID.
        details: the complete protocol as plain data.
    """

    count: int
    extractor: str
    is_inception: bool
    details: dict[str, Any]

    @property
    def id(self) -> str:
        """Eight hexadecimal digits of the protocol's hash; scores with different ids are not comparable."""
        text = json.dumps(self.details, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def metric(self, name: str) -> str:
        """Return the full name of a metric, as `metric_name` forms it."""
        return metric_name(name, self.extractor, self.count, self.is_inception)


def protocol(count: int, extractor: Extractor, reference: Reference) -> Protocol:
    """Return the protocol of scores of `count` images."""
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
