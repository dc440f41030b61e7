"""CLIP and DINOv2 through torch-fidelity, from local files: diffexp never downloads either."""

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from diffexp.evaluation.extractors.base import Extractor, Features, as_rgb


class TorchFidelityExtractor(Extractor):
    """One of torch-fidelity's extractors with a single layer of features."""

    def __init__(self, name: str, network: FeatureExtractorBase, digest: str) -> None:
        dim = network(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))[0].shape[1]
        identity = {"sha256": digest, "resize": "TensorFlow 1 bilinear", "grey": "repeated to RGB"}
        super().__init__(name, dim, network, identity)

    def features(self, images: Tensor) -> Features:
        """Return the features of uint8 images (B, C, H, W) on `device`."""
        return Features(self.network(as_rgb(images))[0])

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Accept images of any size."""
