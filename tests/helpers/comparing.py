"""How results of a GPU are compared with those of a CPU."""

import torch
from torch import Tensor

from diffexp.checkpoints.paths import list_checkpoints
from tests.integration.test_training import state


def off(ours: Tensor, reference: Tensor) -> float:
    """‖ours - reference‖ / ‖reference‖."""
    ours, reference = ours.detach().double().cpu(), reference.detach().double().cpu()
    return float((ours - reference).norm() / reference.norm())


def weights(run, kind="raw", step=None):
    """All weights of a run's newest checkpoint, or that of a step, as one vector: raw or ema."""
    saved = list_checkpoints(run / "checkpoints")
    file = saved[-1] if step is None else next(each for each in saved if each.name == f"step-{step:08d}.ckpt")
    found = state(file)
    return torch.cat([found[name].flatten().cpu() for name in sorted(found) if name.startswith(f"{kind}.network")])


def moved_alike(ours, reference, start) -> float:
    """‖difference‖ of two trainings of the same weights, as a share of how far the reference moved."""
    return float((ours - reference).norm() / (reference - start).norm())
