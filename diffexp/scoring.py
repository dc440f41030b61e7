"""`diffexp score A B`: images that are already there against a dataset, other images, or published statistics."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from diffexp.config import load_score_request
from diffexp.config.evaluation import ReferenceConfig, ScoreRequest
from diffexp.config.experiment import Experiment
from diffexp.data.datamodule import ImageDataModule
from diffexp.data.given import given_images
from diffexp.data.images import ImageSet
from diffexp.errors import UserError
from diffexp.evaluation.extractors import build_extractor
from diffexp.evaluation.extractors.base import Extractor, check_count
from diffexp.evaluation.protocol import Protocol, protocol
from diffexp.evaluation.references import Reference, gather, of_images, read_published, reference
from diffexp.evaluation.scores import Scores, measure
from diffexp.files import refuse_existing, writable, write_text
from diffexp.hardware import device_for


@dataclass(frozen=True)
class Result:
    """The scores of a set of images, how they were made, and against what."""

    scores: Scores
    rules: Protocol
    reference: Reference

    def text(self) -> str:
        """The scores, one a line, each with what is needed to read it."""
        scores, metric = self.scores, self.rules.metric
        lines = [
            f"{metric('fd')}: {scores.fd.value:.4g} ± {scores.fd.error:.2g} (a perfect generator: {scores.floor:.3g})"
        ]
        if scores.kd is not None:
            lines.append(f"{metric('kd')}: {scores.kd.value:.4g} ± {scores.kd.error:.2g} (a perfect generator: 0)")
        if scores.precision is not None and scores.recall is not None:
            lines.append(f"precision / recall: {scores.precision:.3f} / {scores.recall:.3f}")
        if scores.nearest is not None:
            lines.append(f"distance to the nearest real image, between real images being 1: {scores.nearest:.2f}")
        if scores.copies is not None:
            lines.append(f"nearer to a real image than all but 1 % of real images to each other: {scores.copies:.1%}")
        if scores.inception_score is not None:
            lines.append(f"Inception score: {scores.inception_score.value:.3f} ± {scores.inception_score.error:.2g}")
        lines += [f"warning: {each}" for each in scores.warnings()]
        lines.append(f"{scores.count} images against {self.reference}; protocol {self.rules.id}")
        if self.reference.path is not None:
            lines.append(f"reference (mu and sigma): {self.reference.path}")
        return "\n".join(lines)


def is_images(path: Path) -> bool:
    """Whether a path is a .npz, or a folder or zip of images, and not a config or a run's directory."""
    return path.suffix.lower() in (".npz", ".zip") or (path.is_dir() and not (path / "config.yaml").is_file())


def score(first: Path, second: Path | Experiment, overrides: Sequence[str]) -> Result:
    """Score the images of `first`.

    Args:
        first: a .npz, a folder or a zip of images.
        second: the same, or a .npz with mu and sigma, or an experiment whose dataset is meant.
        overrides: ``key=value`` texts.

    Raises:
        UserError: for images, extractors or counts that do not fit.
    """
    request = load_score_request(overrides, None if isinstance(second, Path) else second)
    if request.out is not None:
        writable(Path(request.out), "out")
        if Path(request.out).is_dir():
            raise UserError(f"out: {request.out} is a folder; give the name of a .json")
        refuse_existing(Path(request.out), "out", overwrite=request.overwrite)
    if isinstance(second, Path) and replace(request.reference, cache=None) != ReferenceConfig():
        raise UserError(f"reference: {second} is the reference; its split, count and file say nothing here")
    images = given_images(first)
    extractor = build_extractor(request.extractor, images.image_shape).to(device_for(request.accelerator))
    count = len(images) if request.count is None else request.count
    if count > len(images):
        raise UserError(f"count: {count}, but {first} holds {len(images)} images")
    check_count(count, extractor, str(first) if request.count is None else "count")
    compared = _reference(second, request, images, extractor)
    gathered = gather(images, torch.arange(count) * len(images) // count, extractor, request.batch_size, str(first))
    result = Result(measure(gathered, compared), protocol(count, extractor, compared), compared)
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
    given = given_images(second)
    _same_shape(images, given)
    check_count(len(given), extractor, str(second))
    return of_images(given, extractor, request.batch_size, second.name)


def _holds_statistics(path: Path) -> bool:
    try:
        with np.load(path, allow_pickle=False) as file:
            return "mu" in file
    except (OSError, ValueError, EOFError, TypeError, BadZipFile):
        return False


def _same_shape(images: ImageSet, others: ImageSet) -> None:
    if images.image_shape != others.image_shape:
        raise UserError(
            f"the images are {images.image_shape} (channels, height, width), those they are to be compared with "
            f"{others.image_shape}; resizing would change the score, so do it before, and the same way for both"
        )


def _write(path: Path, result: Result) -> None:
    content = {
        "metric": result.rules.metric("fd"),
        "protocol": result.rules.id,
        "scores": result.scores.as_dict(),
        "details": result.rules.details,
    }
    try:
        write_text(path, json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"out: {path} cannot be written: {error.strerror}") from error
