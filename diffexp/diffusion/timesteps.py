"""How training draws the timesteps of a batch. Both are uniform on 0 … T-1 for each image."""

import torch
from torch import Tensor


def uniform(timesteps: int, count: int, source: torch.Generator) -> Tensor:
    """Indices (count,), each on its own (Ho et al. 2020, algorithm 1), on the generator's device."""
    return torch.randint(timesteps, (count,), generator=source, device=source.device)


def stratified(timesteps: int, count: int, source: torch.Generator) -> Tensor:
    """Indices (count,), one from each of `count` equal parts of [0, T), dealt to the images in random order.

    The mean loss of a batch varies less than with `uniform` (Kingma et al. 2021, appendix I.1, with one offset a part).
    """
    offsets = torch.rand(count, generator=source, device=source.device, dtype=torch.float64)
    parts = torch.randperm(count, generator=source, device=source.device)
    return ((parts + offsets) * timesteps / count).long().clamp_(max=timesteps - 1)
