"""The Inception-v3 that defines FID: torch-fidelity's network, with the resizing of TensorFlow 1."""

import io
import os
from pathlib import Path

import torch
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from diffexp.data.download import impatient_sockets
from diffexp.errors import UserError
from diffexp.evaluation.extractors.base import Extractor, Features, as_rgb
from diffexp.system.files import sha256

VARIABLE = "DIFFEXP_INCEPTION_WEIGHTS"
# torch.hub's file names contain the first digits of the file's SHA-256
GENUINE = "6726825d"
_NAMES = (f"weights-inception-2015-12-05-{GENUINE}.pth", f"pt_inception-2015-12-05-{GENUINE}.pth")
_LAYER, _DIM, _CLASSES = "2048", 2048, 1008


class Inception(Extractor):
    """The pool3 layer (2048 features) and the unbiased logits of Inception-v3.

    Args:
        weights: the file of a state dict with 566 tensors.

    Raises:
        UserError: if it is damaged or of another network.
    """

    def __init__(self, weights: Path) -> None:
        digest = sha256(weights)
        try:
            # torch-fidelity unpickles its file, which may run code, so it gets a copy made from plain tensors
            tensors = io.BytesIO()
            torch.save(torch.load(weights, map_location="cpu", weights_only=True), tensors)
            tensors.seek(0)
            network = FeatureExtractorInceptionV3(
                "inception-v3-compat", [_LAYER, "logits_unbiased"], feature_extractor_weights_path=tensors
            )
        except Exception as error:  # torch raises almost anything for a damaged file
            raise UserError(
                f"extractor.weights: {weights} is damaged or not the Inception-v3 of torch-fidelity: "
                f"{str(error).splitlines()[0]}"
            ) from error
        genuine = digest.startswith(GENUINE)
        super().__init__(
            "inception" if genuine else f"inception_{digest[:8]}",
            _DIM,
            network,
            {"layer": _LAYER, "sha256": digest, "resize": "TensorFlow 1 bilinear to 299", "grey": "repeated to RGB"},
            classes=_CLASSES,
            is_inception=genuine,
        )

    def features(self, images: torch.Tensor) -> Features:
        """Return pool3 features and logits of uint8 images (B, C, H, W) on `device`."""
        values, logits = self.network(as_rgb(images))
        return Features(values, logits)

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Accept images of any size."""


def load(weights: str | None = None) -> Inception:
    """Load the extractor from a file, downloading it if necessary.

    Args:
        weights: the file; None uses $DIFFEXP_INCEPTION_WEIGHTS, then torch's cache, and else downloads into the cache.

    Raises:
        UserError: if there is no file and it cannot be downloaded; says which file to put where.
    """
    given = weights or os.environ.get(VARIABLE)
    if given is not None:
        path = Path(given).expanduser()
        if not path.is_file():
            where = "extractor.weights" if weights else f"${VARIABLE}"
            raise UserError(f"{where}: there is no file {path}. Download it from {URL_INCEPTION_V3}")
        return Inception(path)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for name in _NAMES:
        if (folder / name).is_file():
            return Inception(folder / name)
    return Inception(_download(folder / _NAMES[0]))


def _download(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with impatient_sockets():
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=GENUINE)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"extractor: the weights of Inception-v3 are missing and could not be downloaded ({error}). Download "
            f"{URL_INCEPTION_V3} (its sha256 starts with {GENUINE}) on a machine with a network and put it at {path}, "
            f"or set extractor.weights=PATH or ${VARIABLE}. Small images need no download: use "
            "extractor.name=digits_v1 or fashion_mnist_v1, or train a classifier with diffexp extractor."
        ) from error
    return path
