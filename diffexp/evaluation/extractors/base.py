"""The interface of feature extractors: uint8 images → features, in float32 even under autocast."""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from diffexp.config.schemas.extractors import count_problem
from diffexp.errors import UserError
from diffexp.system.devices import full_float32


@dataclass(frozen=True)
class Features:
    """The output of one forward pass.

    Attributes:
        values: float32 (B, dim).
        logits: float32 (B, classes) if the Inception score is defined, else None.
    """

    values: Tensor
    logits: Tensor | None = None


class Extractor(ABC):
    """A frozen network that maps images to features.

    An extractor is not a Module and not part of one, so its weights enter neither checkpoints nor optimisers.

    Args:
        name: its name in the names of metrics: ``fd_NAME``.
        dim: number of features per image.
        network: the network; the constructor freezes it and sets it to evaluation mode.
        identity: plain data with everything that affects the features: sha256 of the weights, layer, resizing, …
        classes: number of classes of its logits, or None without logits.
        is_inception: whether it is the genuine Inception-v3; only its distances are called FID and KID.
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
        """Return the features of uint8 images (B, C, H, W) on `device`."""

    @abstractmethod
    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Check that the network accepts images (C, H, W).

        Raises:
            UserError: if it does not; names the shape that it accepts.
        """

    def to(self, device: torch.device) -> Self:
        """Move the network to a device."""
        self.network.to(device)
        self.device = device
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Return the features of uint8 images (B, C, H, W), computed in full float32.

        Raises:
            TypeError: if the images are not uint8 (B, C, H, W).
            UserError: if the network returns NaN or infinities.
        """
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise TypeError(f"expected uint8 images (B, C, H, W), got {images.dtype} with {images.ndim} dimensions")
        with torch.autocast(self.device.type, enabled=False), full_float32():
            found = self.features(images.to(self.device))
        if not found.values.isfinite().all():
            raise UserError(
                f"extractor: {self.name}: expected finite features, got NaN or infinities. Check its weights."
            )
        return found


def as_rgb(images: Tensor) -> Tensor:
    """Return images (B, 1 or 3, H, W) with three channels; a grey channel is repeated."""
    return images.expand(-1, 3, -1, -1).contiguous() if images.shape[1] == 1 else images


def check_count(count: int, extractor: Extractor, key: str) -> None:
    """Check that there are at least 40 images, and as many as features, for a covariance that is not singular.

    Raises:
        UserError: if there are fewer; names the smallest count.
    """
    problem = count_problem(count, extractor.dim, extractor.name)
    if problem is not None:
        raise UserError(f"{key}: {problem}")


def check_name(name: str) -> None:
    """Check that a name is valid in the names of metrics and files.

    Raises:
        ValueError: if it contains characters other than letters, digits, "_", "-" and ".", or starts with ".".
    """
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
        raise ValueError(f"expected a name of letters, digits, '_', '-' and '.', not starting with '.', got {name!r}")
