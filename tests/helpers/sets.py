"""Sets of images, and the small extractor on the digits."""

from dataclasses import replace

import torch

from diffexp.data.digits import load
from diffexp.data.images import MemoryImages
from diffexp.evaluation.extractors.digits_v1 import load as digits_extractor
from diffexp.evaluation.feature_statistics import FeatureSummary
from diffexp.evaluation.metrics.metric_set import MetricSet
from diffexp.evaluation.nearest_neighbors import typical_distances
from diffexp.evaluation.reference import gather, of_images
from diffexp.evaluation.scores import Scores


def digits() -> torch.Tensor:
    """The 1617 training images: uint8 (N, 1, 8, 8)."""
    return load("train", 8, 1, 1.0).images


def noisy(images: torch.Tensor, grey_levels: float, seed: int = 0) -> torch.Tensor:
    """Images with Gaussian noise of a standard deviation in grey levels."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images + grey_levels * noise).round().clamp(0, 255).to(torch.uint8)


def gathered(images: torch.Tensor, extractor=None, batch_size=256) -> FeatureSummary:
    """Features of all images."""
    return gather(MemoryImages(images), torch.arange(len(images)), extractor or digits_extractor(), batch_size, "test")


def against(images: torch.Tensor, extractor=None):
    """A reference of all images, which count as all that a model was trained on."""
    made = of_images(MemoryImages(images), extractor or digits_extractor(), 256, "test")
    return replace(made, typical=typical_distances(made.features))


def scores_of(images: torch.Tensor, reference, extractor=None, batch_size=256) -> Scores:
    """Scores of uint8 images (N, C, H, W), batch by batch."""
    extractor = extractor or digits_extractor()
    metrics = MetricSet.of(reference, extractor, len(images))
    for first in range(0, len(images), batch_size):
        metrics.update(images[first : first + batch_size], first)
    return Scores(len(images), metrics.compute())
