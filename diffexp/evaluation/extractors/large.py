"""CLIP and DINOv2 through torch-fidelity, from files that are already here: neither is ever downloaded by diffexp."""

import contextlib
import hashlib
import io
from pathlib import Path

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_clip import MODEL_METADATA, MODEL_URLS, FeatureExtractorCLIP
from torch_fidelity.feature_extractor_dinov2 import MODEL_METADATA as DINOV2_MODELS
from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

from diffexp.errors import UserError
from diffexp.evaluation.extractors.base import Extractor, Features, as_rgb
from diffexp.files import sha256

# What torch.hub.load("facebookresearch/dinov2", …) has written where there was a network.
_DINOV2_CODE = "facebookresearch_dinov2_main"
_DINOV2_URL = "https://dl.fbaipublicfiles.com/dinov2"


class _Fidelity(Extractor):
    """One of torch-fidelity's extractors with a single layer of features."""

    def __init__(self, name: str, network: FeatureExtractorBase, digest: str) -> None:
        dim = network(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))[0].shape[1]
        identity = {"sha256": digest, "resize": "TensorFlow 1 bilinear", "grey": "repeated to RGB"}
        super().__init__(name, dim, network, identity)

    def features(self, images: Tensor) -> Features:
        """See `Extractor.features`."""
        return Features(self.network(as_rgb(images))[0])

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Any size will do."""


def load_clip(variant: str = "vit-b-32", weights: str | None = None) -> Extractor:
    """CLIP's image encoder.

    Args:
        variant: "vit-b-32" and the like.
        weights: OpenAI's file; None takes the one that torch-fidelity has put into torch's cache.

    Raises:
        UserError: if the file is missing, or is not OpenAI's: it is TorchScript, which holds code.
    """
    name = f"clip-{variant}"
    digest = MODEL_METADATA[name]["hash"]
    path = Path(weights).expanduser() if weights else Path(torch.hub.get_dir(), "checkpoints", f"{name}-{digest}.pt")
    if not path.is_file():
        raise UserError(f"extractor.weights: there is no file {path}; fetch it from {MODEL_URLS[name]}")
    if sha256(path) != digest:
        raise UserError(
            f"extractor.weights: {path} is damaged or not OpenAI's {variant} ({MODEL_URLS[name]}): its sha256 is not "
            f"{digest}"
        )
    network = FeatureExtractorCLIP(name, ["clip"], feature_extractor_weights_path=str(path))
    return _Fidelity(name.replace("-", "_"), network, digest)


def load_dinov2(variant: str = "vit-b-14") -> Extractor:
    """DINOv2's class token.

    torch-fidelity cannot read DINOv2 from a path: it asks torch.hub, which needs the project's code and the weights in
    its cache. That code is run.

    Args:
        variant: "vit-b-14" and the like.

    Raises:
        UserError: if either is not there.
    """
    name = f"dinov2-{variant}"
    model = DINOV2_MODELS[name]
    hub = Path(torch.hub.get_dir())
    weights = hub / "checkpoints" / f"{model}_pretrain.pth"
    if not (hub / _DINOV2_CODE / "hubconf.py").is_file() or not weights.is_file():
        raise UserError(
            "extractor: dinov2 needs the code of github.com/facebookresearch/dinov2 (its branch main) as "
            f"{hub / _DINOV2_CODE} and {_DINOV2_URL}/{model}/{weights.name} as {weights}; "
            "torch-fidelity reads them from nowhere else"
        )
    with contextlib.redirect_stderr(io.StringIO()):  # warnings of the project's code about optional speed
        network = FeatureExtractorDinoV2(name, ["dinov2"])
    code = hashlib.sha256((hub / _DINOV2_CODE / "hubconf.py").read_bytes()).hexdigest()
    extractor = _Fidelity(name.replace("-", "_"), network, sha256(weights))
    extractor.identity["code"] = code
    return extractor
