"""Convolutions down to a small grid and back up: encoders, decoders, generators and discriminators."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class Residual(nn.Module):
    """x + two 3×3 convolutions of it, each after an activation; normalised by groups or not at all."""

    def __init__(self, width: int, *, norm: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_activated(width, norm), nn.Conv2d(width, width, 3, padding=1),
            *_activated(width, norm), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) → the same shape."""
        out: Tensor = x + self.layers(x)
        return out


def down(channels: int, widths: Sequence[int], *, norm: bool) -> nn.Sequential:
    """(B, channels, H, W) → (B, widths[-1], h, w), each level after the first half as high.

    Args:
        channels: of the images.
        widths: of the levels.
        norm: normalise groups of channels: of each image by itself, unlike batch normalisation, so that an averaged
            network needs no statistics of its own, and an image does not depend on its batch.
    """
    layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1), Residual(widths[0], norm=norm)]
    for before, width in pairwise(widths):
        layers += [*_activated(before, norm), nn.Conv2d(before, width, 4, stride=2, padding=1)]
        layers += [Residual(width, norm=norm)]
    return nn.Sequential(*layers, *_activated(widths[-1], norm))


def up(channels: int, widths: Sequence[int], *, norm: bool) -> nn.Sequential:
    """(B, widths[-1], h, w) → (B, channels, H, W): `down` backwards."""
    layers: list[nn.Module] = [Residual(widths[-1], norm=norm)]
    for before, width in pairwise(widths[::-1]):
        layers += [*_activated(before, norm), nn.ConvTranspose2d(before, width, 4, stride=2, padding=1)]
        layers += [Residual(width, norm=norm)]
    return nn.Sequential(*layers, *_activated(widths[0], norm), nn.Conv2d(widths[0], channels, 3, padding=1))


def _activated(width: int, norm: bool) -> list[nn.Module]:
    return [*([nn.GroupNorm(math.gcd(8, width), width)] if norm else []), nn.LeakyReLU(0.2)]
