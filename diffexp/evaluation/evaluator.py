"""Scoring of a trained model's samplers under one protocol."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from diffexp.checkpoints.load import TrainedModel, build_trained
from diffexp.config.schemas.requests import EvaluateRequest
from diffexp.data.datamodule import ImageDataModule
from diffexp.data.images import ImageSet
from diffexp.evaluation.extractors import build_extractor
from diffexp.evaluation.extractors.base import check_count
from diffexp.evaluation.metrics.metric_set import MetricSet
from diffexp.evaluation.protocol import Protocol, protocol
from diffexp.evaluation.reference import Reference, reference
from diffexp.evaluation.sample_scores import score_samples
from diffexp.evaluation.score_entry import ScoreEntry
from diffexp.models.base import GenerativeModel
from diffexp.system.devices import float64_device, precision_for
from diffexp.system.files import sha256


@dataclass(frozen=True)
class Evaluator:
    """A trained model and the metrics, reference and protocol that its samplers are scored with.

    Attributes:
        model: the model with the requested weights, on its device.
        metrics: the metrics, on the same device.
        reference: the features of real images.
        protocol: the settings under which scores are comparable.
        precision: the precision in which the model samples.
    """

    model: GenerativeModel
    metrics: MetricSet
    reference: Reference
    protocol: Protocol
    precision: str

    @classmethod
    def prepare(cls, trained: TrainedModel, request: EvaluateRequest) -> Self:
        """Load and validate everything that scoring needs.

        Raises:
            UserError: if the extractor, reference or count does not fit the model or each other.
        """
        experiment = trained.experiment
        shape = (experiment.data.channels, experiment.data.image_size, experiment.data.image_size)
        extractor = build_extractor(request.extractor, shape)
        check_count(request.count, extractor, "count")
        model = build_trained(trained, request.weights, request.accelerator)
        extractor.to(float64_device(model.device))
        data = ImageDataModule.from_config(experiment.data, 1, experiment.seed)

        def images() -> ImageSet:
            return data.images(request.reference.split)

        real = reference(experiment.data, images, request.reference, extractor, request.batch_size)
        metrics = MetricSet.of(real, extractor, request.count)
        rules = protocol(request.count, extractor, real)
        return cls(model, metrics, real, rules, precision_for(request.precision, model.device))

    def about(self, trained: TrainedModel, request: EvaluateRequest, name: str) -> dict[str, Any]:
        """Return the settings shared by all scores of an evaluation, and their protocol, as plain data."""
        return {
            "name": f"{trained.name} {name}",
            "run": trained.name,
            "checkpoint": sha256(trained.path),
            "step": trained.step,
            "weights": request.weights,
            "count": request.count,
            "seed": request.seed,
            "dataset": trained.experiment.data.name,
            "reference": str(self.reference),
            "extractor": self.protocol.extractor,
            "quantisation": self.protocol.details["quantisation"],
            "precision": self.precision,
            "device": self.model.device.type,
            "protocol": self.protocol.details,
        }

    def score(self, entry: ScoreEntry, repeat: int, request: EvaluateRequest, on_call: Callable[[], object]) -> None:
        """Draw images count·repeat … count·(repeat+1) - 1 and append their scores to the entry."""
        images = range(repeat * request.count, (repeat + 1) * request.count)
        found = score_samples(
            self.model, entry.sampler, self.metrics, images, request.seed, request.batch_size, on_call
        )
        entry.repeats.append(found.scores)
        entry.seconds.append(found.seconds)


def default_out(trained: TrainedModel, name: str, about: dict[str, Any]) -> Path:
    """Return a folder in the run's directory, named by checkpoint, weights, count and a digest of `about`."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]
    parts = [trained.path.stem, name, about["weights"], str(about["count"]), digest]
    return trained.folder / "evaluations" / "-".join(parts)
