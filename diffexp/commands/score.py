"""`diffexp score A B`: score existing images against a dataset, other images, or published statistics."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from diffexp.commands.score_request import checked_request
from diffexp.config.schemas.experiment import Experiment
from diffexp.config.schemas.requests import ScoreRequest
from diffexp.data.arrays import array_names
from diffexp.data.datamodule import ImageDataModule
from diffexp.data.images import ImageSet
from diffexp.data.load_images import load_images
from diffexp.errors import UserError, writing
from diffexp.evaluation.extractors import build_extractor
from diffexp.evaluation.extractors.base import Extractor, check_count
from diffexp.evaluation.metrics.metric_set import MetricSet
from diffexp.evaluation.protocol import Protocol, protocol
from diffexp.evaluation.reference import Reference, batches, of_images, read_published, reference
from diffexp.evaluation.scores import Scores
from diffexp.system.devices import device_for, float64_device
from diffexp.system.files import atomic_write_text


@dataclass(frozen=True)
class Result:
    """The scores of a set of images, with their protocol and reference."""

    scores: Scores
    rules: Protocol
    reference: Reference

    def text(self) -> str:
        """Return the scores, one per line, then the reference and the protocol."""
        lines = [
            self.scores.text(self.rules),
            f"{self.scores.count} images against {self.reference}; protocol {self.rules.id}",
        ]
        if self.reference.path is not None:
            lines.append(f"reference (mu and sigma): {self.reference.path}")
        return "\n".join(lines)


def score(first: Path, second: Path | Experiment, overrides: Sequence[str]) -> Result:
    """Score the images of `first`.

    Args:
        first: a .npz, a folder or a zip of images.
        second: the same, or a .npz with mu and sigma, or an experiment with the dataset to compare with.
        overrides: ``key=value`` texts.

    Raises:
        UserError: for unsuitable images, extractors, counts or an `out` that exists.
    """
    request = checked_request(first, second, overrides)
    images = load_images(first)
    extractor = build_extractor(request.extractor, images.image_shape).to(
        float64_device(device_for(request.accelerator))
    )
    count = len(images) if request.count is None else request.count
    if count > len(images):
        raise UserError(f"count: expected at most {len(images)}, the images in {first}, got {count}. Reduce count.")
    check_count(count, extractor, str(first) if request.count is None else "count")
    compared = _reference(second, request, images, extractor)
    metrics = MetricSet.of(compared, extractor, count)
    indices = torch.arange(count) * len(images) // count
    for start, batch in batches(images, indices, request.batch_size, str(first)):
        metrics.update(batch, start)
    scores = Scores(count, metrics.compute())
    result = Result(scores, protocol(count, extractor, compared), compared)
    if request.out is not None:
        _write(Path(request.out), result)
    return result


def _reference(second: Path | Experiment, request: ScoreRequest, images: ImageSet, extractor: Extractor) -> Reference:
    if isinstance(second, Experiment):
        data = ImageDataModule.from_config(second.data, 1, second.seed)

        def others() -> ImageSet:
            loaded = data.images(request.reference.split)
            _same_shape(images, loaded)
            return loaded

        return reference(second.data, others, request.reference, extractor, request.batch_size)
    if second.suffix.lower() == ".npz" and _holds_statistics(second):
        return read_published(second, extractor)
    given = load_images(second)
    _same_shape(images, given)
    check_count(len(given), extractor, str(second))
    return of_images(given, extractor, request.batch_size, second.name)


def _holds_statistics(path: Path) -> bool:
    return "mu" in array_names(path)


def _same_shape(images: ImageSet, others: ImageSet) -> None:
    if images.image_shape != others.image_shape:
        raise UserError(
            f"images: expected the shape (channels, height, width) of the reference, {others.image_shape}, got "
            f"{images.image_shape}. Resize both the same way first; diffexp does not, as resizing changes the score."
        )


def _write(path: Path, result: Result) -> None:
    content = {
        "metric": result.rules.metric("fd"),
        "protocol": result.rules.id,
        "scores": result.scores.as_dict(),
        "details": result.rules.details,
    }
    with writing(f"out: {path}"):
        atomic_write_text(path, json.dumps(content, indent=1) + "\n")
