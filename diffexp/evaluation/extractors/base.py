"""What any feature extractor offers: uint8 images → features, in float32, whatever surrounds it."""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from diffexp.errors import UserError
from diffexp.system.devices import full_float32

_FEWEST_FOR_PAIRS = 40  # two in each block of the kernel distance's jackknife


@dataclass(frozen=True)
class Features:
    """What one forward pass gives.

    Attributes:
        values: float32 (B, dim).
        logits: float32 (B, classes) where the Inception score is defined, else None.
    """

    values: Tensor
    logits: Tensor | None = None


class Extractor(ABC):
    """A frozen network that turns images into features.

    No Module and in no Module: its weights enter neither checkpoints nor optimisers.

    Args:
        name: in the names of metrics: ``fd_NAME``.
        dim: features of an image.
        network: the network; frozen and switched to evaluation here.
        identity: plain data that says all that changes the features: sha256 of the weights, layer, resizing, …
        classes: of its logits, or None if it gives none.
        is_inception: whether it is the genuine Inception-v3, whose distances alone are called FID and KID.
    """

    def __init__(
        self,
        name: str,
        dim: int,
        network: nn.Module,
        identity: dict[str, Any],
        classes: int | None = None,
        is_inception: bool = False,
    ) -> None:
        check_name(name)
        self.name = name
        self.dim = dim
        self.network = network.eval().requires_grad_(False)
        self.identity = {"name": name, "dim": dim, **identity}
        self.classes = classes
        self.is_inception = is_inception
        self.device = torch.device("cpu")

    @abstractmethod
    def features(self, images: Tensor) -> Features:
        """The features of uint8 images (B, C, H, W) on `device`."""

    @abstractmethod
    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Refuse images (C, H, W) that the network cannot take.

        Raises:
            UserError: saying which it takes.
        """

    def to(self, device: torch.device) -> Self:
        """Move to a device."""
        self.network.to(device)
        self.device = device
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """The features of uint8 images (B, C, H, W), computed in full float32.

        Raises:
            TypeError: for images that are not uint8.
            UserError: if the network gives NaN or infinities.
        """
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise TypeError(f"features are those of uint8 images (B, C, H, W), not {images.dtype} {images.ndim}-d")
        with torch.autocast(self.device.type, enabled=False), full_float32():
            found = self.features(images.to(self.device))
        if not found.values.isfinite().all():
            raise UserError(f"the extractor {self.name} gives features that are not finite; are its weights damaged?")
        return found


def as_rgb(images: Tensor) -> Tensor:
    """Images (B, 1 or 3, H, W) with three channels: grey is repeated."""
    return images.expand(-1, 3, -1, -1).contiguous() if images.shape[1] == 1 else images


def check_count(count: int, extractor: Extractor, key: str) -> None:
    """Refuse fewer images than the extractor has features: their covariance would be singular.

    Raises:
        UserError: saying how many are needed.
    """
    fewest = max(extractor.dim, _FEWEST_FOR_PAIRS)
    if count < fewest:
        raise UserError(
            f"{key}: {count} images are too few for the {extractor.dim} features of {extractor.name}; take {fewest} "
            "or more, or an extractor with fewer features"
        )


def check_name(name: str) -> None:
    """Refuse a name that could not stand in the names of metrics and files.

    Raises:
        ValueError: if it has other characters than letters, digits, "_", "-" and ".", or starts with ".".
    """
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
        raise ValueError(f"{name!r} names metrics and files: use letters, digits, '_', '-' and '.'")
