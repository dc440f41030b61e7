"""CLIP's image encoder through torch-fidelity, from a local file."""

from pathlib import Path

import torch
from torch_fidelity.feature_extractor_clip import MODEL_METADATA, MODEL_URLS, FeatureExtractorCLIP

from diffexp.errors import UserError
from diffexp.evaluation.extractors.base import Extractor
from diffexp.evaluation.extractors.torch_fidelity import TorchFidelityExtractor
from diffexp.system.files import sha256


def load(variant: str = "vit-b-32", weights: str | None = None) -> Extractor:
    """Load CLIP's image encoder.

    Args:
        variant: a variant such as "vit-b-32".
        weights: OpenAI's file; None uses torch-fidelity's copy in torch's cache.

    Raises:
        UserError: if the file is missing or not OpenAI's; it is TorchScript, which contains code.
    """
    name = f"clip-{variant}"
    digest = MODEL_METADATA[name]["hash"]
    path = Path(weights).expanduser() if weights else Path(torch.hub.get_dir(), "checkpoints", f"{name}-{digest}.pt")
    if not path.is_file():
        raise UserError(f"extractor.weights: there is no file {path}. Download it from {MODEL_URLS[name]}")
    if sha256(path) != digest:
        raise UserError(
            f"extractor.weights: {path} is damaged or not OpenAI's {variant}: expected sha256 {digest}, got another. "
            f"Download it from {MODEL_URLS[name]}"
        )
    network = FeatureExtractorCLIP(name, ["clip"], feature_extractor_weights_path=str(path))
    return TorchFidelityExtractor(name.replace("-", "_"), network, digest)
