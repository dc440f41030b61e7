"""A network compiled by torch, that falls back to running as it is."""

import logging

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

Key = tuple[torch.Size, torch.dtype, torch.device]


class Compiled:
    """(x_t, t, …) → output, by torch.compile for the shape of its first call; other shapes run as they are.

    Compiling takes half a minute to minutes, which every further shape would cost again: the last, smaller batch of a
    sample is not worth it. Where it cannot be done (no C++ compiler, an operation it does not know), that is told once,
    and the network runs uncompiled. The network's parameters, state and training mode stay its own.

    Args:
        network: (x_t (B, C, H, W), indices t (B,), maybe classes (B,)) → (B, C, H, W).
        graphs: record CUDA graphs where the network is on a GPU: for calls without gradients, by the hundred.
    """

    def __init__(self, network: nn.Module, *, graphs: bool = False) -> None:
        self._network = network
        self._graphs = graphs
        self._compiled = torch.compile(network, dynamic=False, mode="reduce-overhead" if graphs else None)
        self._key: Key | None = None
        self._failed = False

    def __call__(self, x: Tensor, *others: Tensor) -> Tensor:
        """Apply the network."""
        key = (x.shape, x.dtype, x.device)
        if self._failed or (self._key is not None and key != self._key):
            out: Tensor = self._network(x, *others)
            return out
        if self._key is not None:
            return self._call(x, *others)
        self._key = key
        try:
            return self._call(x, *others)
        except (RuntimeError, OSError) as error:  # what torch's compilers raise is of either kind
            self._failed = True
            out = self._network(x, *others)  # if the network itself is wrong, this says so
            reason = str(error).strip().splitlines() or [type(error).__name__]
            log.warning("compile: torch cannot compile this network here (%s); it runs uncompiled", reason[0])
            return out

    def _call(self, x: Tensor, *others: Tensor) -> Tensor:
        out: Tensor = self._compiled(x, *others)
        # the next run of a CUDA graph overwrites the last one's output
        return out.clone() if self._graphs and out.is_cuda else out
