"""Networks of autoregressive models: the logits of each level of an image, given those before it.

An image is seen as rows of levels: its height × (width · channels), the channels of a pixel beside each other. The
order is that of reading.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator

from torch import Tensor, nn

LEVELS = 256

# Yields the logits (B, 256) of the next level, and is sent that level (B,).
Steps = Generator[Tensor, Tensor, None]


class AutoregressiveNetwork(nn.Module, ABC):
    """(B, H, L) levels → (B, H, L, 256) logits of each, of which those of a level depend on the earlier ones alone."""

    @abstractmethod
    def forward(self, levels: Tensor) -> Tensor:
        """All logits at once: int64 (B, H, L) → (B, H, L, 256)."""

    @abstractmethod
    def stepwise(self, batch: int) -> Steps:
        """One level after another, with what was computed for the earlier ones kept: the same logits as `forward`."""
