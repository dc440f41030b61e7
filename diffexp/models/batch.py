"""Batches as models receive them, from any data loader."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffexp.data.images import to_float

# From `ImageDataModule`, from a torchvision dataset, or images alone.
AnyBatch = Tensor | Sequence[Tensor] | Mapping[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """Images to train on.

    Attributes:
        images: float (B, C, H, W) in [-1, 1].
        labels: class labels, int64 (B,), or None for unlabelled data.
        index: numbers of the images in the dataset, (B,), for messages, or None.
    """

    images: Tensor
    labels: Tensor | None = None
    index: Tensor | None = None


def as_batch(batch: AnyBatch) -> Batch:
    """Convert a tensor of images, a pair (images, labels) or a mapping with "images" to a `Batch`.

    Args:
        batch: its images are uint8, or float in [-1, 1]. A mapping may also have "labels" and "index".

    Raises:
        TypeError: for anything else.
    """
    if isinstance(batch, Mapping):
        found = Batch(batch["images"], batch.get("labels"), batch.get("index"))
    elif isinstance(batch, Tensor):
        found = Batch(batch)
    elif isinstance(batch, Sequence) and 1 <= len(batch) <= 2 and all(isinstance(each, Tensor) for each in batch):
        found = Batch(*batch)
    else:
        raise TypeError(
            "batch: expected images, a pair (images, labels) or a mapping with images, as tensors, "
            f"got {type(batch).__name__}. Set a collate_fn in the DataLoader that returns one of these."
        )
    images = found.images
    return Batch(to_float(images) if images.dtype == torch.uint8 else images, found.labels, found.index)
