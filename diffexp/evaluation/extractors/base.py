"""What any feature extractor offers: uint8 images → features, in float32, whatever surrounds it."""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from diffexp.errors import UserError


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
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.autocast(self.device.type, enabled=False), exact:
            found = self.features(images.to(self.device))
        if not found.values.isfinite().all():
            raise UserError(f"the extractor {self.name} gives features that are not finite; are its weights damaged?")
        return found


def as_rgb(images: Tensor) -> Tensor:
    """Images (B, 1 or 3, H, W) with three channels: grey is repeated."""
    return images.expand(-1, 3, -1, -1).contiguous() if images.shape[1] == 1 else images


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
