"""A small convolutional classifier of small images, whose last hidden layer gives the features.

Domain-specific networks of this kind stand in for Inception where images are small, grey and far from
photographs (a LeNet in Bińkowski et al. 2018). Distances under other weights are other distances: values move
by up to a factor of 2 with the training's seed. So the weights are files with a digest, trained once.
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
        image_shape: (C, H, W); images of 16 pixels or more are halved by the first convolution.
        classes: how many.
        features: width of the hidden layer.
        dropout: before the class scores.
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
        """The hidden layer (B, features) of images (B, C, H, W) in [-1, 1]."""
        hidden: Tensor = self.hidden(self.convolutions(images).flatten(1)).relu()
        return hidden

    def forward(self, images: Tensor) -> Tensor:
        """The class scores (B, classes)."""
        scores: Tensor = self.scores(self.dropout(self.features(images)))
        return scores


def _convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


class ClassifierExtractor(Extractor):
    """The hidden layer of a `Classifier`.

    Args:
        name, digest: of its file.
        image_shape: (C, H, W) that it was trained on.
        network: the classifier.
    """

    def __init__(self, name: str, digest: str, image_shape: tuple[int, int, int], network: Classifier) -> None:
        identity = {"layer": "hidden", "sha256": digest, "resize": "none"}
        super().__init__(name, network.hidden.out_features, network, identity)
        self.image_shape = image_shape
        self.classifier = network

    def features(self, images: Tensor) -> Features:
        """See `Extractor.features`."""
        return Features(self.classifier.features(to_float(images)))

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """See `Extractor.check`."""
        if image_shape != self.image_shape:
            raise UserError(
                f"extractor: {self.name} was trained on images {self.image_shape} (channels, height, width), these are "
                f"{image_shape}; train one with: diffexp extractor CONFIG name=…"
            )


def load(weights: str) -> ClassifierExtractor:
    """An extractor from a file that `write` made. Nothing in it is executed.

    Raises:
        UserError: if the file is missing, damaged, or of another kind.
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        raise UserError(f"extractor.weights: there is no file {path}; make it with: diffexp extractor CONFIG name=…")
    digest = sha256(path)
    recorded = _digest_file(path)
    shipped = path.parent == SHIPPED
    if (recorded.is_file() or shipped) and (not recorded.is_file() or recorded.read_text().split()[:1] != [digest]):
        raise UserError(f"extractor.weights: {path} is damaged: its sha256 is {digest}, not that in {recorded}")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
        tensors = load_file(path)
        if about.get("format") != _FORMAT:
            raise ValueError("it holds no classifier of `diffexp extractor`")
        channels, height, width = json.loads(about["image_shape"])
        shape = (channels, height, width)
        network = Classifier(shape, json.loads(about["classes"]), json.loads(about["features"]))
        network.load_state_dict(tensors)
        name = about["name"]
        if name in EXTRACTORS.names and not shipped:
            raise ValueError(f"it calls itself {name}, which is the name of another extractor")
        return ClassifierExtractor(name, digest, shape, network)
    except (SafetensorError, OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"extractor.weights: {path} is damaged or of another kind: {error}") from error


def write(
    path: Path, network: Classifier, image_shape: tuple[int, int, int], name: str, training: dict[str, Any]
) -> None:
    """Write a classifier as safetensors, and its digest beside it in the format of sha256sum.

    Args:
        path: the file.
        network: the classifier.
        image_shape: (C, H, W).
        name: of the extractor.
        training: plain data, how it was trained and how good it is; kept in the file.

    Raises:
        OSError: as writing does.
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
