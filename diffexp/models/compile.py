"""torch.compile for a network, with a fallback to eager execution."""

import logging

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

Key = tuple[torch.Size, torch.dtype, torch.device]


class Compiled:
    """A network compiled by torch.compile for the input shape of its first call; calls with other shapes run eagerly.

    Compilation takes half a minute to minutes for each shape, which the smaller last batch of a sample is not worth. If
    compilation fails (no C++ compiler, an unsupported operation), diffexp warns once and the network runs eagerly. The
    network keeps its parameters, buffers and training mode.

    Args:
        network: (x_t (B, C, H, W), indices t (B,), optionally classes (B,)) → (B, C, H, W).
        graphs: record CUDA graphs if the network is on a GPU; for many calls without gradients.
    """

    def __init__(self, network: nn.Module, *, graphs: bool = False) -> None:
        self._network = network
        self._graphs = graphs
        self._compiled = torch.compile(network, dynamic=False, mode="reduce-overhead" if graphs else None)
        self._key: Key | None = None
        self._failed = False

    def __call__(self, x: Tensor, *others: Tensor) -> Tensor:
        """Apply the network to x_t (B, C, H, W), t (B,) and optionally classes (B,)."""
        key = (x.shape, x.dtype, x.device)
        if self._failed or (self._key is not None and key != self._key):
            out: Tensor = self._network(x, *others)
            return out
        if self._key is not None:
            return self._call(x, *others)
        self._key = key
        try:
            return self._call(x, *others)
        except (RuntimeError, OSError) as error:  # torch's compilers raise either
            self._failed = True
            out = self._network(x, *others)  # raises again if the network itself is at fault
            reason = str(error).strip().splitlines() or [type(error).__name__]
            log.warning("compile: expected a network that torch can compile, got: %s. It runs uncompiled.", reason[0])
            return out

    def _call(self, x: Tensor, *others: Tensor) -> Tensor:
        out: Tensor = self._compiled(x, *others)
        # the next replay of a CUDA graph overwrites this output
        return out.clone() if self._graphs and out.is_cuda else out
