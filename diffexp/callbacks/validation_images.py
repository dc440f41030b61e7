"""The images of a validation: evenly spaced ones of a split."""

import hashlib
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from diffexp.data.datamodule import ImageDataModule
from diffexp.data.images import ImageSet, digests_of
from diffexp.errors import UserError


@dataclass(frozen=True)
class ValidationImages:
    """Evenly spaced images of a split.

    Attributes:
        indices: their numbers in the split, int64 (N,).
        images: uint8 (N, C, H, W).
        labels: int64 (N,), or None for unlabelled images.
    """

    indices: Tensor
    images: Tensor
    labels: Tensor | None

    @classmethod
    def of(cls, images: ImageSet, count: int) -> Self:
        """Fetch at most `count` images of a set."""
        count = min(count, len(images))
        indices = torch.arange(count) * len(images) // count
        return cls(indices, images.fetch(indices), images.labels_at(indices))

    def digest(self) -> str:
        """Return a short digest of the pixels."""
        return hashlib.sha256("".join(digests_of(self.images)).encode()).hexdigest()[:16]


def images_of_split(data: ImageDataModule, split: str, *, labelled: bool) -> ImageSet:
    """Return the held-out or the test images.

    Args:
        data: the images.
        split: "held_out" or "test".
        labelled: whether they need the classes of the training images.

    Raises:
        UserError: if there are none, or they have other classes.
    """
    try:
        images = data.images(split)
    except UserError as error:
        raise UserError(
            f"{error} validation.split = {split} needs them: set data.held_out to hold out training images, or "
            "validation=null."
        ) from error
    if labelled and images.class_names != data.images("train").class_names:
        raise UserError(
            f"validation.split: expected images with the classes of the training images, got {images.class_names} "
            f"in the {split} split. Set data.held_out and validation.split=held_out."
        )
    return images
