"""DINOv2 through torch-fidelity, from files that are already here."""

import contextlib
import hashlib
import io
from pathlib import Path

import torch
from torch_fidelity.feature_extractor_dinov2 import MODEL_METADATA as DINOV2_MODELS
from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

from diffexp.errors import UserError
from diffexp.evaluation.extractors.base import Extractor
from diffexp.evaluation.extractors.torch_fidelity import TorchFidelityExtractor
from diffexp.system.files import sha256

# What torch.hub.load("facebookresearch/dinov2", …) has written where there was a network.
_DINOV2_CODE = "facebookresearch_dinov2_main"


_DINOV2_URL = "https://dl.fbaipublicfiles.com/dinov2"


def load(variant: str = "vit-b-14") -> Extractor:
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
    extractor = TorchFidelityExtractor(name.replace("-", "_"), network, sha256(weights))
    extractor.identity["code"] = code
    return extractor
