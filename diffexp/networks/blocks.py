"""The parts of the U-Net of Ho et al. 2020 (appendix B)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class GroupNorm(nn.GroupNorm):
    """GroupNorm that keeps the type of its input, in which its mean and standard deviation are rounded, too.

    On a GPU, autocast would convert the input to float32: normalisation and activation would then move three times as
    many bytes, and are limited by that. On a CPU autocast leaves the type as it is.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, H, W)."""
        if not x.is_cuda or x.dtype == self.weight.dtype:
            return super().forward(x)
        return self.in_type_of(x)

    def in_type_of(self, x: Tensor) -> Tensor:
        """Normalise with weights of x's type, also under autocast."""
        with torch.autocast(x.device.type, enabled=False):
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


def group_norm(groups: int, channels: int) -> GroupNorm:
    """GroupNorm with the ε of the authors' code."""
    return GroupNorm(groups, channels, eps=1e-6)


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
        weights = next(self.layers.parameters())  # bfloat16 where all weights are
        embedding: Tensor = self.layers(self.waves(t).to(weights.dtype))
        return embedding

    def waves(self, t: Tensor) -> Tensor:
        """The sines, then the cosines: float32 (B, frequencies)."""
        angles = t[:, None].float() * self.rates
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class Dropout(nn.Module):
    """Sets elements to zero with a probability while training, and scales the others up (Srivastava et al. 2014).

    On a CPU a mask of torch's own takes a seventh of a small network's step; there each element is told by 16 random
    bits, which makes the probability a multiple of 2⁻¹⁶, and the scale that of this probability.

    Args:
        probability: of zero, in [0, 1).
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self._zeros = min(round(probability * 2**16), 2**16 - 1)  # of 2¹⁶ equally likely numbers

    def forward(self, x: Tensor) -> Tensor:
        """Apply it; the identity outside training."""
        if not self.training or not self._zeros:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.probability)
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        numbers = draws.view(torch.int16)[: x.numel()].view(x.shape)
        kept = (numbers >= self._zeros - 2**15).to(x.dtype)
        return x * kept.mul_(2**16 / (2**16 - self._zeros))


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
        self.dropout = Dropout(dropout)
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
        query, key, value = self.query_key_value(self.norm(x)).reshape(b, 3, c, h * w).transpose(2, 3).unbind(1)
        out: Tensor = x + self.out(attend(query, key, value).transpose(1, 2).reshape(b, c, h, w))
        return out


_FEW_PIXELS = 32 * 32  # for whose attention a matrix of all pairs is kept in memory


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q Kᵀ/√C) V, all of shape (B, pixels, C) (Vaswani et al. 2017, eq. 1).

    Written out for few pixels on a CPU, where torch's fused kernel takes twice as long in bfloat16.
    """
    if query.device.type != "cpu" or query.shape[1] > _FEW_PIXELS:
        # the fused kernels take four axes (in torch 2.9) whose last is contiguous; for others torch computes all pairs
        query, key, value = (each.contiguous().unsqueeze(1) for each in (query, key, value))
        return F.scaled_dot_product_attention(query, key, value).squeeze(1)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(1, 2)
    attended: Tensor = scores.softmax(dim=-1) @ value
    return attended


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
        out: Tensor = self.conv(double(x))
        return out


def double(x: Tensor) -> Tensor:
    """Repeat every pixel: (B, C, H, W) → (B, C, 2H, 2W)."""
    if x.device.type != "cpu":
        return F.interpolate(x, scale_factor=2.0, mode="nearest")  # keeps the memory format
    b, c, h, w = x.shape
    # not F.interpolate, which autocast runs in float32 on a CPU
    return x[:, :, :, None, :, None].expand(b, c, h, 2, w, 2).reshape(b, c, 2 * h, 2 * w)


class Stage(nn.ModuleList):
    """Blocks applied one after the other, (B, C, H, W) and the embedding of t → (B, C', H', W').

    Args:
        blocks: the blocks; only residual ones see t.
        skip: whether the input is first joined with the feature map kept on the way down.
        gradient_checkpointing: keep only each block's input for the gradient, and apply the block again when it is
            needed (Chen et al. 2016); dropout draws the same again.
    """

    def __init__(self, *blocks: nn.Module, skip: bool = False, gradient_checkpointing: bool = False) -> None:
        super().__init__(blocks)
        self.skip = skip
        self.gradient_checkpointing = gradient_checkpointing

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Apply the blocks."""
        gradient_checkpointing = self.gradient_checkpointing and torch.is_grad_enabled()
        for block in self:
            inputs = (x, time) if isinstance(block, ResidualBlock) else (x,)
            x = checkpoint(block, *inputs, use_reentrant=False) if gradient_checkpointing else block(*inputs)
        return x
