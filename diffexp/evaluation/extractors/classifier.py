"""A small convolutional classifier of small images, whose last hidden layer provides the features.

Such domain-specific networks replace Inception for images that are small, grey and unlike photographs (a LeNet in
Bińkowski et al. 2018). Distances under different weights are not comparable: values change by up to a factor of 2
with the training's seed. So the weights are trained once and stored as files with a digest.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from diffexp.config.schemas.extractors import EXTRACTORS
from diffexp.data.images import to_float
from diffexp.errors import UserError
from diffexp.evaluation.extractors.base import Extractor, Features
from diffexp.system.files import atomic_write, atomic_write_text, sha256

SHIPPED = Path(__file__).parent / "weights"
_FORMAT = "diffexp classifier 1"


class Classifier(nn.Module):
    """Four convolutions, a hidden layer and the class scores.

    Args:
        image_shape: (C, H, W); the first convolution halves images of 16 pixels or more.
        classes: number of classes.
        features: width of the hidden layer.
        dropout: dropout probability before the class scores.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int, features: int, dropout: float = 0.0) -> None:
        super().__init__()
        channels, height, width = image_shape
        stride = 2 if min(height, width) >= 16 else 1
        self.convolutions = nn.Sequential(
            *_convolution(channels, 16, kernel=5, stride=stride),
            *_convolution(16, 32),
            *_convolution(32, 64, stride=2),
            *_convolution(64, 64),
            nn.MaxPool2d(2, ceil_mode=True),
        )
        with torch.no_grad():
            pixels = self.convolutions.eval()(torch.zeros(1, *image_shape)).numel()
        self.hidden = nn.Linear(pixels, features)
        self.dropout = nn.Dropout(dropout)
        self.scores = nn.Linear(features, classes)

    def features(self, images: Tensor) -> Tensor:
        """Return the hidden layer (B, features) for images (B, C, H, W) in [-1, 1]."""
        hidden: Tensor = self.hidden(self.convolutions(images).flatten(1)).relu()
        return hidden

    def forward(self, images: Tensor) -> Tensor:
        """Return the class scores (B, classes) for images (B, C, H, W) in [-1, 1]."""
        scores: Tensor = self.scores(self.dropout(self.features(images)))
        return scores


def _convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


class ClassifierExtractor(Extractor):
    """The hidden layer of a `Classifier` as a feature extractor.

    Args:
        name: the name in its file.
        digest: the sha256 of its file.
        image_shape: (C, H, W) of the images that it was trained on.
        network: the classifier.
    """

    def __init__(self, name: str, digest: str, image_shape: tuple[int, int, int], network: Classifier) -> None:
        identity = {"layer": "hidden", "sha256": digest, "resize": "none"}
        super().__init__(name, network.hidden.out_features, network, identity)
        self.image_shape = image_shape
        self.classifier = network

    def features(self, images: Tensor) -> Features:
        """Return the hidden layer for uint8 images (B, C, H, W) on `device`."""
        return Features(self.classifier.features(to_float(images)))

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Check that images (C, H, W) have the shape that the classifier was trained on.

        Raises:
            UserError: if they do not.
        """
        if image_shape != self.image_shape:
            raise UserError(
                f"extractor: {self.name}: expected images {self.image_shape} (channels, height, width), got "
                f"{image_shape}. Train an extractor with diffexp extractor CONFIG name=…"
            )


def load(weights: str) -> ClassifierExtractor:
    """Load an extractor from a file of `write`, without executing anything in it.

    Raises:
        UserError: if the file is missing, damaged, or of another kind.
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        raise UserError(
            f"extractor.weights: there is no file {path}. Train an extractor with diffexp extractor CONFIG name=…"
        )
    digest = sha256(path)
    recorded = _digest_file(path)
    shipped = path.parent == SHIPPED
    if (recorded.is_file() or shipped) and (not recorded.is_file() or recorded.read_text().split()[:1] != [digest]):
        raise UserError(
            f"extractor.weights: {path} is damaged: expected the sha256 in {recorded}, got {digest}. Restore the file."
        )
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
        tensors = load_file(path)
        if about.get("format") != _FORMAT:
            raise ValueError("expected a classifier of `diffexp extractor`, got other tensors")
        channels, height, width = json.loads(about["image_shape"])
        shape = (channels, height, width)
        network = Classifier(shape, json.loads(about["classes"]), json.loads(about["features"]))
        network.load_state_dict(tensors)
        name = about["name"]
        if name in EXTRACTORS.names and not shipped:
            raise ValueError(f"its name, {name}, is the name of another extractor")
        return ClassifierExtractor(name, digest, shape, network)
    except (SafetensorError, OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"extractor.weights: {path} is damaged or of another kind: {error}") from error


def write(
    path: Path, network: Classifier, image_shape: tuple[int, int, int], name: str, training: dict[str, Any]
) -> None:
    """Write a classifier as safetensors, and next to it its digest in the format of sha256sum.

    Args:
        path: the file.
        network: the classifier.
        image_shape: (C, H, W) of its images.
        name: the extractor's name.
        training: plain data about its training and accuracy, stored in the file.

    Raises:
        OSError: if a file cannot be written.
    """
    about = {
        "format": _FORMAT,
        "name": name,
        "image_shape": json.dumps(image_shape),
        "classes": json.dumps(network.scores.out_features),
        "features": json.dumps(network.hidden.out_features),
        "training": json.dumps(training),
    }
    tensors = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    with atomic_write(path) as file:
        file.write(save(tensors, about))
    atomic_write_text(_digest_file(path), f"{sha256(path)}  {path.name}\n")


def _digest_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
