"""Sets of images, and the small extractor on the digits."""

from dataclasses import replace

import torch

from diffexp.data.digits import load
from diffexp.data.images import MemoryImages
from diffexp.evaluation.extractors.classifier import shipped_digits
from diffexp.evaluation.gathering import Gathered
from diffexp.evaluation.neighbours import typical_distances
from diffexp.evaluation.references import gather, of_images


def digits() -> torch.Tensor:
    """The 1617 training images: uint8 (N, 1, 8, 8)."""
    return load("train", 8, 1, 1.0).images


def noisy(images: torch.Tensor, grey_levels: float, seed: int = 0) -> torch.Tensor:
    """Images with Gaussian noise of a standard deviation in grey levels."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images + grey_levels * noise).round().clamp(0, 255).to(torch.uint8)


def gathered(images: torch.Tensor, extractor=None, batch_size=256) -> Gathered:
    """Features of all images."""
    return gather(MemoryImages(images), torch.arange(len(images)), extractor or shipped_digits(), batch_size, "test")


def against(images: torch.Tensor, extractor=None):
    """A reference of all images, which count as all that a model was trained on."""
    made = of_images(MemoryImages(images), extractor or shipped_digits(), 256, "test")
    return replace(made, typical=typical_distances(made.bank))
