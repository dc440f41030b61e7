"""Convolutional encoders and decoders, for VAEs, generators and discriminators."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class Residual(nn.Module):
    """A residual block of two 3×3 convolutions, each after an optional GroupNorm and an activation."""

    def __init__(self, width: int, *, norm: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_activated(width, norm), nn.Conv2d(width, width, 3, padding=1),
            *_activated(width, norm), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, H, W) to the same shape."""
        out: Tensor = x + self.layers(x)
        return out


def down(channels: int, widths: Sequence[int], *, norm: bool) -> nn.Sequential:
    """Build an encoder (B, channels, H, W) → (B, widths[-1], h, w); each level after the first halves the resolution.

    Args:
        channels: channels of the images.
        widths: channels of the levels.
        norm: use GroupNorm. Unlike batch normalisation it works on each image alone, so an averaged network needs no
            statistics, and an image does not depend on its batch.
    """
    layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1), Residual(widths[0], norm=norm)]
    for before, width in pairwise(widths):
        layers += [*_activated(before, norm), nn.Conv2d(before, width, 4, stride=2, padding=1)]
        layers += [Residual(width, norm=norm)]
    return nn.Sequential(*layers, *_activated(widths[-1], norm))


def up(channels: int, widths: Sequence[int], *, norm: bool) -> nn.Sequential:
    """Build a decoder (B, widths[-1], h, w) → (B, channels, H, W), the mirror image of `down`."""
    layers: list[nn.Module] = [Residual(widths[-1], norm=norm)]
    for before, width in pairwise(widths[::-1]):
        layers += [*_activated(before, norm), nn.ConvTranspose2d(before, width, 4, stride=2, padding=1)]
        layers += [Residual(width, norm=norm)]
    return nn.Sequential(*layers, *_activated(widths[0], norm), nn.Conv2d(widths[0], channels, 3, padding=1))


def _activated(width: int, norm: bool) -> list[nn.Module]:
    return [*([nn.GroupNorm(math.gcd(8, width), width)] if norm else []), nn.LeakyReLU(0.2)]
