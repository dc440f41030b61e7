"""CLIP's image encoder through torch-fidelity, from a file that is already here."""

from pathlib import Path

import torch
from torch_fidelity.feature_extractor_clip import MODEL_METADATA, MODEL_URLS, FeatureExtractorCLIP

from diffexp.errors import UserError
from diffexp.evaluation.extractors.base import Extractor
from diffexp.evaluation.extractors.torch_fidelity import TorchFidelityExtractor
from diffexp.system.files import sha256


def load(variant: str = "vit-b-32", weights: str | None = None) -> Extractor:
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
    return TorchFidelityExtractor(name.replace("-", "_"), network, digest)
