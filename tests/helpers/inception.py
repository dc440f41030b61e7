"""Inception-v3 with random weights, as a file: libraries can be compared without the genuine ones."""

import torch
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


def write_random_inception(path):
    """He-initialised, because torch's default makes all features collapse to one point."""

    class Random(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_):
            """Stay random."""

    empty = path.with_suffix(".empty")
    torch.save({}, empty)
    torch.manual_seed(0)
    network = Random("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(empty))
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
    torch.save(network.state_dict(), path)
    return path
