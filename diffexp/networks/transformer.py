"""A decoder-only Transformer over the levels of an image (Vaswani et al. 2017; Chen et al. 2020)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffexp.networks.autoregressive import LEVELS, AutoregressiveNetwork, Steps


def _attention(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
    """Compute attention; on a CPU in float32, because the bfloat16 gradient takes five times as long."""
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, is_causal=causal)
    with torch.autocast("cpu", enabled=False):
        query, key, value = (each if each.dtype == torch.float64 else each.float() for each in (query, key, value))
        return F.scaled_dot_product_attention(query, key, value, is_causal=causal)


class _Block(nn.Module):
    """Causal self-attention, then an MLP, each with pre-normalisation and a residual connection."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, kept: Tensor | None = None, place: int = 0) -> Tensor:
        """Map all tokens (B, N, width), or one token (B, 1, width) with cached keys and values, to the same shape.

        Args:
            x: tokens.
            kept: cache of keys and values (2, B, heads, N, width/heads), updated at `place`; None for all tokens.
            place: index of the token.
        """
        parts = self.qkv(self.norms[0](x)).chunk(3, dim=2)
        query, key, value = (each.view(*x.shape[:2], self.heads, -1).transpose(1, 2) for each in parts)
        if kept is None:
            seen = _attention(query, key, value, causal=True)
        else:
            kept[0, :, :, place], kept[1, :, :, place] = key[:, :, 0], value[:, :, 0]
            seen = _attention(query, kept[0, :, :, : place + 1], kept[1, :, :, : place + 1], causal=False)
        x = x + self.dropout(self.out(seen.transpose(1, 2).flatten(2)))
        out: Tensor = x + self.dropout(self.perceptron(self.norms[1](x)))
        return out


class Transformer(AutoregressiveNetwork):
    """A decoder-only Transformer (Vaswani et al. 2017) over the levels, with learned embeddings of row and column.

    Args:
        shape: (H, L) of the grid of levels.
        width: dimension of a token.
        layers: number of blocks.
        heads: number of attention heads.
        dropout: probability after attention and MLP, in [0, 1).
    """

    def __init__(self, shape: tuple[int, int], *, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.shape, self.width, self.heads = shape, width, heads
        self.embedding = nn.Embedding(LEVELS + 1, width)  # the last one is the start token
        self.row, self.place = (nn.Parameter(0.02 * torch.randn(length, width)) for length in shape)
        self.blocks = nn.ModuleList(_Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, LEVELS)

    def _positions(self) -> Tensor:
        """Return the position embeddings, (H·L, width)."""
        return (self.row[:, None] + self.place).flatten(0, 1)

    def forward(self, levels: Tensor) -> Tensor:
        """Map all levels, int64 (B, H, L), to logits (B, H, L, 256) at once."""
        before = F.pad(levels.flatten(1), (1, -1), value=LEVELS)
        x = self.embedding(before) + self._positions()
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits.view(-1, *self.shape, LEVELS)

    def stepwise(self, batch: int) -> Steps:
        """Compute the logits level by level, caching the keys and values of previous tokens."""
        positions = self._positions()
        kept = positions.new_zeros(len(self.blocks), 2, batch, self.heads, len(positions), self.width // self.heads)
        before = torch.full((batch,), LEVELS, device=positions.device)
        for place, position in enumerate(positions):
            x = (self.embedding(before) + position)[:, None]
            for block, each in zip(self.blocks, kept, strict=True):
                x = block(x, each, place)
            before = yield self.head(self.norm(x))[:, 0]
