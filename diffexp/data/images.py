"""Sets of uint8 images, and the conversion between pixels and floats."""

import hashlib
import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import pad

from diffexp.data.origin import Origin
from diffexp.errors import UserError


class ImageSet(ABC):
    """A set of images of one shape, read in batches, with class labels or without.

    Args:
        image_shape: (C, H, W) of every image.
        labels: int64 (N,), indices into `class_names`; None for unlabelled images.
        class_names: names of the classes; None for unlabelled images.
        origin: the images before conversion, and what was skipped; None if they already had this shape.
        names: relative paths of the files, if each image has one; else None.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        labels: Tensor | None = None,
        class_names: list[str] | None = None,
        origin: Origin | None = None,
        names: list[str] | None = None,
    ) -> None:
        _, height, width = image_shape
        self.image_shape = image_shape
        self.labels = labels
        self.class_names = class_names
        self.origin = origin or Origin((width, height), (width, height))
        self.names = names

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images, N."""

    @abstractmethod
    def fetch(self, indices: Tensor) -> Tensor:
        """Return the images at `indices` (int64, (B,)), in that order: uint8 (B, C, H, W)."""

    def labels_at(self, indices: Tensor) -> Tensor | None:
        """Return the labels (int64, (B,)) of what `fetch` last returned for `indices`; None for unlabelled images."""
        return None if self.labels is None else self.labels[indices]

    def some(self, indices: Tensor) -> "ImageSet":
        """Return the images at `indices` (int64), in that order, as a set of the same kind."""
        return Subset(self, indices)

    def take_warnings(self) -> list[str]:
        """Return the warnings of fetches in this worker process that nobody has taken yet."""
        return []

    def fingerprint(self) -> str:
        """Return a digest of all pixels in order; it is the same wherever the images are stored."""
        digest = new_fingerprint(len(self), self.image_shape)
        for indices in torch.split(torch.arange(len(self)), images_in_a_block(self.image_shape)):
            digest.update(self.fetch(indices).contiguous().numpy().data)
        return digest.hexdigest()

    def brief_fingerprint(self) -> str:
        """Return a digest of the number of images, their labels, and the pixels of up to 1000 evenly spaced images.

        It is fast even if images are decoded when they are fetched, and the same wherever they are stored.
        """
        digest = hashlib.sha256(repr((len(self), self.image_shape, self.class_names)).encode())
        if self.labels is not None:
            digest.update(self.labels.contiguous().numpy().data)
        some = min(len(self), 1000)
        digest.update(self.fetch(torch.arange(some) * len(self) // max(some, 1)).contiguous().numpy().data)
        return f"{len(self)} images, {digest.hexdigest()[:16]}"


def new_fingerprint(count: int, image_shape: tuple[int, int, int]) -> "hashlib._Hash":
    """Return the initial state of the digest of `ImageSet.fingerprint`."""
    return hashlib.sha256(repr((count, image_shape)).encode())


def images_in_a_block(image_shape: tuple[int, int, int]) -> int:
    """Return the number of images in about 64 MiB: enough for efficient reads, and small compared with a set."""
    return max(1, 2**26 // math.prod(image_shape))


class MemoryImages(ImageSet):
    """Images in one tensor.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,) or None.
        class_names: names of the classes, or None.
        origin, names: see `ImageSet`.

    Raises:
        ValueError: if the images are not uint8 (N, C, H, W), or the labels not int64 (N,).
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        class_names: list[str] | None = None,
        origin: Origin | None = None,
        names: list[str] | None = None,
    ) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"images: expected uint8 (N, C, H, W), got {images.dtype} {tuple(images.shape)}.")
        if labels is not None and (labels.dtype != torch.int64 or labels.shape != images.shape[:1]):
            raise ValueError(
                f"labels: expected int64 ({len(images)},) for {len(images)} images, "
                f"got {labels.dtype} {tuple(labels.shape)}."
            )
        _, channels, height, width = images.shape
        super().__init__((channels, height, width), labels, class_names, origin, names)
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def fetch(self, indices: Tensor) -> Tensor:
        """Return the images at `indices` (int64, (B,)), in that order: uint8 (B, C, H, W)."""
        return self.images.index_select(0, indices)  # plain indexing takes ten times as long

    def some(self, indices: Tensor) -> "MemoryImages":
        """Return a copy of the images at `indices` (int64), in that order."""
        names = None if self.names is None else [self.names[index] for index in indices.tolist()]
        return MemoryImages(self.fetch(indices), self.labels_at(indices), self.class_names, self.origin, names)


class Subset(ImageSet):
    """A subset of an image set.

    Args:
        images: the set.
        indices: int64 (N,), the images of the subset, in order.
    """

    def __init__(self, images: ImageSet, indices: Tensor) -> None:
        labels = None if images.labels is None else images.labels[indices]
        names = None if images.names is None else [images.names[index] for index in indices.tolist()]
        super().__init__(images.image_shape, labels, images.class_names, images.origin, names)
        self.images = images
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def fetch(self, indices: Tensor) -> Tensor:
        """Return the images at `indices` (int64, (B,)) of the subset, in that order: uint8 (B, C, H, W)."""
        return self.images.fetch(self.indices[indices])

    def labels_at(self, indices: Tensor) -> Tensor | None:
        """Return the labels (int64, (B,)) of what `fetch` last returned for `indices`; None for unlabelled images."""
        return self.images.labels_at(self.indices[indices])


def without_held_out(images: ImageSet, count: int) -> tuple[ImageSet, ImageSet]:
    """Split a set into the images to train on and `count` evenly spaced images that are held out.

    Raises:
        UserError: if no image would remain to train on.
    """
    if count >= len(images):
        raise UserError(
            f"data.held_out: expected fewer than the {len(images)} images of the train split, got {count}. "
            "Hold out fewer."
        )
    aside = torch.zeros(len(images), dtype=torch.bool)
    aside[torch.arange(count) * len(images) // count] = True
    kept, held_out = (images.some(chosen.nonzero().flatten()) for chosen in (~aside, aside))
    return kept, held_out


def pad_to_square(images: Tensor, size: int) -> Tensor:
    """Pad images (N, C, H, W) evenly with black (0) to (N, C, size, size).

    An odd row or column is added at the bottom or the right.

    Raises:
        ValueError: if an image is larger than `size`.
    """
    height, width = images.shape[-2:]
    if max(height, width) > size:
        raise ValueError(f"size: expected at least the images' {height}×{width} pixels, got {size}×{size}.")
    top, left = (size - height) // 2, (size - width) // 2
    return pad(images, (left, size - width - left, top, size - height - top))


def to_float(images: Tensor) -> Tensor:
    """Convert pixels 0..255 to float32 in [-1, 1]: x / 127.5 - 1."""
    return images.to(torch.float32, copy=True).div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Convert floats, nominally in [-1, 1], to the pixels of a saved PNG: clamp, then round to the nearest level.

    Raises:
        ValueError: if an image contains NaN, which has no pixel value.
    """
    if images.isnan().any():
        raise ValueError("images: expected numbers, got NaN.")
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
