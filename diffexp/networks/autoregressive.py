"""The interface of autoregressive networks: logits of each level of an image, given the previous levels.

An image is a grid of levels, H rows of L = W·C, with the channels of a pixel adjacent. The order is raster order.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator

from torch import Tensor, nn

LEVELS = 256

# Yields the logits (B, 256) of the next level, and receives that level (B,) by `send`.
Steps = Generator[Tensor, Tensor, None]


class AutoregressiveNetwork(nn.Module, ABC):
    """A network that maps levels (B, H, L) to logits (B, H, L, 256), each of which depends only on previous levels."""

    @abstractmethod
    def forward(self, levels: Tensor) -> Tensor:
        """Map all levels, int64 (B, H, L), to logits (B, H, L, 256) at once."""

    @abstractmethod
    def stepwise(self, batch: int) -> Steps:
        """Compute the logits level by level, caching intermediate results; they equal those of `forward`."""
