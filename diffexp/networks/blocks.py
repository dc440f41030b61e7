"""Building blocks of the U-Net of DDPM (Ho et al. 2020, appendix B)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class GroupNorm(nn.GroupNorm):
    """GroupNorm that keeps the dtype of its input, in which the mean and standard deviation are rounded too.

    On a GPU, autocast would convert the input to float32. Normalisation and activation are memory-bound, and would then
    move three times as many bytes. On a CPU autocast keeps the dtype.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, H, W)."""
        if not x.is_cuda or x.dtype == self.weight.dtype:
            return super().forward(x)
        return self.in_type_of(x)

    def in_type_of(self, x: Tensor) -> Tensor:
        """Normalise with weights in x's dtype, also under autocast."""
        with torch.autocast(x.device.type, enabled=False):
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


def group_norm(groups: int, channels: int) -> GroupNorm:
    """Build a GroupNorm with the ε of the authors' code, 1e-6."""
    return GroupNorm(groups, channels, eps=1e-6)


def zero_init(layer: nn.Conv2d) -> nn.Conv2d:
    """Set weight and bias of a layer to zero, so that the block around it starts as the identity; return the layer."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class TimeEmbedding(nn.Module):
    """Embeds the indices t (B,) as (B, features): the Transformer's sinusoidal embedding, then two linear layers.

    Args:
        frequencies: number of sines plus cosines; even.
        features: dimension of the embedding.
    """

    def __init__(self, frequencies: int, features: int) -> None:
        super().__init__()
        half = frequencies // 2
        rates = torch.exp(torch.arange(half) * (-math.log(10_000) / max(half - 1, 1)))
        self.rates: Tensor
        self.register_buffer("rates", rates, persistent=False)
        self.layers = nn.Sequential(nn.Linear(frequencies, features), nn.SiLU(), nn.Linear(features, features))

    def forward(self, t: Tensor) -> Tensor:
        """Map t (B,) to the embedding (B, features)."""
        weights = next(self.layers.parameters())  # bfloat16 where all weights are
        embedding: Tensor = self.layers(self.waves(t).to(weights.dtype))
        return embedding

    def waves(self, t: Tensor) -> Tensor:
        """Return the sines, then the cosines, float32 (B, frequencies)."""
        angles = t[:, None].float() * self.rates
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014): zeroes elements with a given probability in training, and rescales the others.

    On a CPU, torch's mask takes a seventh of a small network's step. There, 16 random bits decide about each element.
    This rounds the probability to a multiple of 2⁻¹⁶, and the scale matches the rounded probability.

    Args:
        probability: probability of zero, in [0, 1).
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self._zeros = min(round(probability * 2**16), 2**16 - 1)  # zeroed ones of 2¹⁶ equally likely numbers

    def forward(self, x: Tensor) -> Tensor:
        """Apply dropout to x of any shape; the identity outside training."""
        if not self.training or not self._zeros:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.probability)
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        numbers = draws.view(torch.int16)[: x.numel()].view(x.shape)
        kept = (numbers >= self._zeros - 2**15).to(x.dtype)
        return x * kept.mul_(2**16 / (2**16 - self._zeros))


class ResidualBlock(nn.Module):
    """A residual block: (B, channels_in, H, W) and the embedding of t → (B, channels_out, H, W).

    Norm, SiLU, convolution; plus a projection of the embedding; norm, SiLU, dropout, convolution (initially zero); plus
    the input.
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
        """Apply the block to x (B, channels_in, H, W) with the embedding `time` (B, time_features)."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = hidden + self.time(F.silu(time))[:, :, None, None]
        hidden = self.conv2(self.dropout(F.silu(self.norm2(hidden))))
        out: Tensor = self.shortcut(x) + hidden
        return out


class SelfAttention(nn.Module):
    """A residual block of single-head self-attention over all pixels of (B, C, H, W)."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = group_norm(groups, channels)
        self.query_key_value = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to x (B, C, H, W)."""
        b, c, h, w = x.shape
        query, key, value = self.query_key_value(self.norm(x)).reshape(b, 3, c, h * w).transpose(2, 3).unbind(1)
        out: Tensor = x + self.out(attend(query, key, value).transpose(1, 2).reshape(b, c, h, w))
        return out


_FEW_PIXELS = 32 * 32  # up to which the attention matrix is materialised on a CPU


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute softmax(Q Kᵀ/√C) V, all of shape (B, pixels, C) (Vaswani et al. 2017, eq. 1).

    On a CPU with few pixels the matrices are explicit, because torch's fused kernel takes twice as long in bfloat16.
    """
    if query.device.type != "cpu" or query.shape[1] > _FEW_PIXELS:
        # Fused kernels need four axes (in torch 2.9), the last contiguous; otherwise torch materialises the matrix.
        query, key, value = (each.contiguous().unsqueeze(1) for each in (query, key, value))
        return F.scaled_dot_product_attention(query, key, value).squeeze(1)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(1, 2)
    attended: Tensor = scores.softmax(dim=-1) @ value
    return attended


class Downsample(nn.Module):
    """Halves the resolution, (B, C, H, W) → (B, C, H/2, W/2): strided convolution, padded as in TensorFlow."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H/2, W/2)."""
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))  # right and below
        return out


class Upsample(nn.Module):
    """Doubles the resolution, (B, C, H, W) → (B, C, 2H, 2W): nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, 2H, 2W)."""
        out: Tensor = self.conv(double(x))
        return out


def double(x: Tensor) -> Tensor:
    """Upsample by nearest neighbour: (B, C, H, W) → (B, C, 2H, 2W)."""
    if x.device.type != "cpu":
        return F.interpolate(x, scale_factor=2.0, mode="nearest")  # keeps the memory format
    b, c, h, w = x.shape
    # not F.interpolate, which autocast runs in float32 on a CPU
    return x[:, :, :, None, :, None].expand(b, c, h, 2, w, 2).reshape(b, c, 2 * h, 2 * w)


class Stage(nn.ModuleList):
    """Blocks in sequence: (B, C, H, W) and the embedding of t → (B, C', H', W').

    Args:
        blocks: the blocks; only residual blocks receive the embedding.
        skip: whether the input is first concatenated with the skip connection.
        gradient_checkpointing: store only each block's input and recompute the block in the backward pass (Chen et al.
            2016), with the same dropout masks.
    """

    def __init__(self, *blocks: nn.Module, skip: bool = False, gradient_checkpointing: bool = False) -> None:
        super().__init__(blocks)
        self.skip = skip
        self.gradient_checkpointing = gradient_checkpointing

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Apply the blocks to x (B, C, H, W) with the embedding `time` (B, time_features)."""
        gradient_checkpointing = self.gradient_checkpointing and torch.is_grad_enabled()
        for block in self:
            inputs = (x, time) if isinstance(block, ResidualBlock) else (x,)
            x = checkpoint(block, *inputs, use_reentrant=False) if gradient_checkpointing else block(*inputs)
        return x
