"""DINOv2 through torch-fidelity, from local files."""

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

# The folder that torch.hub.load("facebookresearch/dinov2", …) writes on a machine with a network.
_DINOV2_CODE = "facebookresearch_dinov2_main"
_DINOV2_URL = "https://dl.fbaipublicfiles.com/dinov2"


def load(variant: str = "vit-b-14") -> Extractor:
    """Load DINOv2, whose class token provides the features.

    torch-fidelity cannot load DINOv2 from a path. It calls torch.hub, which needs the project's code and the weights
    in its cache, and runs that code.

    Args:
        variant: a variant such as "vit-b-14".

    Raises:
        UserError: if the code or the weights are missing.
    """
    name = f"dinov2-{variant}"
    model = DINOV2_MODELS[name]
    hub = Path(torch.hub.get_dir())
    weights = hub / "checkpoints" / f"{model}_pretrain.pth"
    if not (hub / _DINOV2_CODE / "hubconf.py").is_file() or not weights.is_file():
        raise UserError(
            "extractor: dinov2: the code or the weights are missing. Download the code of "
            f"github.com/facebookresearch/dinov2 (branch main) to {hub / _DINOV2_CODE} and "
            f"{_DINOV2_URL}/{model}/{weights.name} to {weights}. torch-fidelity reads no other place."
        )
    with contextlib.redirect_stderr(io.StringIO()):  # the project's warnings about optional accelerations
        network = FeatureExtractorDinoV2(name, ["dinov2"])
    code = hashlib.sha256((hub / _DINOV2_CODE / "hubconf.py").read_bytes()).hexdigest()
    extractor = TorchFidelityExtractor(name.replace("-", "_"), network, sha256(weights))
    extractor.identity["code"] = code
    return extractor
