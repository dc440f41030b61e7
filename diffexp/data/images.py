"""Sets of uint8 images, and the one rule by which pixels become floats and floats become pixels."""

import hashlib
import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import pad

from diffexp.errors import UserError


class ImageSet(ABC):
    """Images of one shape, read in whole batches, with a class label each or none.

    Args:
        image_shape: (C, H, W) of every image.
        labels: int64 (N,), indices into `class_names`; None for unlabelled images.
        class_names: one name a class; None for unlabelled images.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        labels: Tensor | None = None,
        class_names: list[str] | None = None,
    ) -> None:
        self.image_shape = image_shape
        self.labels = labels
        self.class_names = class_names

    @abstractmethod
    def __len__(self) -> int:
        """The number of images."""

    @abstractmethod
    def fetch(self, indices: Tensor) -> Tensor:
        """The images at `indices` (int64, (B,)), in that order: uint8 (B, C, H, W)."""

    def fingerprint(self) -> str:
        """A digest of all pixels in order, the same wherever the images are held."""
        digest = new_fingerprint(len(self), self.image_shape)
        for indices in torch.split(torch.arange(len(self)), images_in_a_block(self.image_shape)):
            digest.update(self.fetch(indices).contiguous().numpy().data)
        return digest.hexdigest()

    def brief_fingerprint(self) -> str:
        """A digest of how many images there are, their labels, and the pixels of up to 1000 of them, evenly spread.

        It is quick also where images are decoded when they are fetched, and the same where they are not.
        """
        digest = hashlib.sha256(repr((len(self), self.image_shape, self.class_names)).encode())
        if self.labels is not None:
            digest.update(self.labels.contiguous().numpy().data)
        some = min(len(self), 1000)
        digest.update(self.fetch(torch.arange(some) * len(self) // max(some, 1)).contiguous().numpy().data)
        return f"{len(self)} images, {digest.hexdigest()[:16]}"


def new_fingerprint(count: int, image_shape: tuple[int, int, int]) -> "hashlib._Hash":
    """The digest of `ImageSet.fingerprint` before its first pixel."""
    return hashlib.sha256(repr((count, image_shape)).encode())


def images_in_a_block(image_shape: tuple[int, int, int]) -> int:
    """How many images take about 64 MiB, enough to read at once and little next to a set."""
    return max(1, 2**26 // math.prod(image_shape))


class MemoryImages(ImageSet):
    """Images held in one tensor.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,) or None.
        class_names: one name a class, or None.

    Raises:
        ValueError: if the images are not uint8 (N, C, H, W) or the labels do not fit them.
    """

    def __init__(self, images: Tensor, labels: Tensor | None = None, class_names: list[str] | None = None) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"images must be uint8 (N, C, H, W), not {images.dtype} {tuple(images.shape)}")
        if labels is not None and (labels.dtype != torch.int64 or labels.shape != images.shape[:1]):
            raise ValueError(
                f"labels must be int64 ({len(images)},) for {len(images)} images, "
                f"not {labels.dtype} {tuple(labels.shape)}"
            )
        _, channels, height, width = images.shape
        super().__init__((channels, height, width), labels, class_names)
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def fetch(self, indices: Tensor) -> Tensor:
        """See `ImageSet.fetch`."""
        return self.images.index_select(0, indices)  # plain indexing takes ten times as long


class Subset(ImageSet):
    """Some images of a set.

    Args:
        images: the set.
        indices: int64 (N,), which of them, in that order.
    """

    def __init__(self, images: ImageSet, indices: Tensor) -> None:
        labels = None if images.labels is None else images.labels[indices]
        super().__init__(images.image_shape, labels, images.class_names)
        self.images = images
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def fetch(self, indices: Tensor) -> Tensor:
        """See `ImageSet.fetch`."""
        return self.images.fetch(self.indices[indices])


def without_held_out(images: ImageSet, count: int) -> tuple[ImageSet, ImageSet]:
    """The images to train on, and the `count` that are held out, evenly spread over the set.

    Raises:
        UserError: if none would be left to train on.
    """
    if count >= len(images):
        raise UserError(
            f"data.held_out: expected fewer than the {len(images)} images of the train split, got {count}. "
            "Hold out fewer."
        )
    aside = torch.zeros(len(images), dtype=torch.bool)
    aside[torch.arange(count) * len(images) // count] = True
    kept, held_out = (_some(images, chosen.nonzero().flatten()) for chosen in (~aside, aside))
    return kept, held_out


def _some(images: ImageSet, indices: Tensor) -> ImageSet:
    chosen = Subset(images, indices)
    if not isinstance(images, MemoryImages):
        return chosen
    return MemoryImages(images.fetch(indices), chosen.labels, chosen.class_names)


def pad_to_square(images: Tensor, size: int) -> Tensor:
    """Surround images (N, C, H, W) evenly with black (0): (N, C, size, size).

    An odd row or column goes to the bottom or the right.

    Raises:
        ValueError: if an image is larger than `size`.
    """
    height, width = images.shape[-2:]
    if max(height, width) > size:
        raise ValueError(f"images of {height}×{width} pixels cannot be padded to {size}×{size}")
    top, left = (size - height) // 2, (size - width) // 2
    return pad(images, (left, size - width - left, top, size - height - top))


def to_float(images: Tensor) -> Tensor:
    """Pixels 0..255 as float32 in [-1, 1]: x / 127.5 - 1."""
    return images.to(torch.float32, copy=True).div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Floats, meant to lie in [-1, 1], as the pixels a saved PNG would hold: clamped, rounded to nearest.

    Raises:
        ValueError: if there is a NaN, which has no pixel value.
    """
    if images.isnan().any():
        raise ValueError("the images contain NaN")
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
