"""The parts of the U-Net of Ho et al. 2020 (appendix B)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def group_norm(groups: int, channels: int) -> nn.GroupNorm:
    """GroupNorm with the ε of the authors' code."""
    return nn.GroupNorm(groups, channels, eps=1e-6)


def zero_init(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with weight and bias zero, so that the block around it starts as the identity."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class TimeEmbedding(nn.Module):
    """Indices t (B,) → embeddings (B, features): the transformer's sines and cosines, then two layers.

    Args:
        frequencies: number of sines plus cosines; even.
        features: size of the embedding.
    """

    def __init__(self, frequencies: int, features: int) -> None:
        super().__init__()
        half = frequencies // 2
        rates = torch.exp(torch.arange(half) * (-math.log(10_000) / max(half - 1, 1)))
        self.rates: Tensor
        self.register_buffer("rates", rates, persistent=False)
        self.layers = nn.Sequential(nn.Linear(frequencies, features), nn.SiLU(), nn.Linear(features, features))

    def forward(self, t: Tensor) -> Tensor:
        """Embed the indices."""
        angles = t[:, None].float() * self.rates
        embedding: Tensor = self.layers(torch.cat([angles.sin(), angles.cos()], dim=1))
        return embedding


class ResidualBlock(nn.Module):
    """(B, channels_in, H, W), embedding of t → (B, channels_out, H, W).

    Norm, SiLU, convolution; t added; norm, SiLU, dropout, convolution (zero at the start); plus the input.
    """

    def __init__(self, channels_in: int, channels_out: int, time_features: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = group_norm(groups, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.time = nn.Linear(time_features, channels_out)
        self.norm2 = group_norm(groups, channels_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero_init(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        same = channels_in == channels_out
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Apply the block; `time` is the embedding (B, time_features)."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = hidden + self.time(F.silu(time))[:, :, None, None]
        hidden = self.conv2(self.dropout(F.silu(self.norm2(hidden))))
        out: Tensor = self.shortcut(x) + hidden
        return out


class SelfAttention(nn.Module):
    """(B, C, H, W) → the same shape: every pixel attends to every pixel, one head; plus the input."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = group_norm(groups, channels)
        self.query_key_value = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        b, c, h, w = x.shape
        query, key, value = self.query_key_value(self.norm(x)).view(b, 3, c, h * w).transpose(2, 3).unbind(1)
        attended = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = x + self.out(attended.transpose(1, 2).reshape(b, c, h, w))
        return out


class Downsample(nn.Module):
    """(B, C, H, W) → (B, C, H/2, W/2) by a strided convolution, padded right and below as in TensorFlow."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the image."""
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """(B, C, H, W) → (B, C, 2H, 2W): every pixel repeated, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Double the image."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Stage(nn.ModuleList):
    """Blocks applied one after the other, (B, C, H, W) and the embedding of t → (B, C', H', W').

    Args:
        blocks: the blocks; only residual ones see t.
        skip: whether the input is first joined with the feature map kept on the way down.
    """

    def __init__(self, *blocks: nn.Module, skip: bool = False) -> None:
        super().__init__(blocks)
        self.skip = skip

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Apply the blocks."""
        for block in self:
            x = block(x, time) if isinstance(block, ResidualBlock) else block(x)
        return x
