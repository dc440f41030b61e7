"""Importing models of other libraries, and comparing them with ours."""

from pathlib import Path

import torch

from diffexp.commands.import_ import import_model
from diffexp.config.load import load_import_request

DATA = ["data.name=image_folder", "data.path=images"]


def awake(network):
    """Every weight away from what it starts as."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return network.eval()


def imported(path, out, *overrides, data=DATA):
    request, rest = load_import_request([f"out={out}", *data, *overrides])
    return import_model(Path(path), request, rest)


def agree(network, ours):
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 900])
    with torch.no_grad():
        their = network(x, t)
        torch.testing.assert_close(ours.network(x, t), getattr(their, "sample", their), rtol=1e-5, atol=1e-5)
