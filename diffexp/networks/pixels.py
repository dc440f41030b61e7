"""Networks of autoregressive models: the logits of each level of an image, given those before it.

An image is seen as rows of levels: its height × (width · channels), the channels of a pixel beside each other. The
order is that of reading.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 256

# Yields the logits (B, 256) of the next level, and is sent that level (B,).
Steps = Generator[Tensor, Tensor, None]


class PixelNetwork(nn.Module, ABC):
    """(B, H, L) levels → (B, H, L, 256) logits of each, of which those of a level depend on the earlier ones alone."""

    @abstractmethod
    def forward(self, levels: Tensor) -> Tensor:
        """All logits at once: int64 (B, H, L) → (B, H, L, 256)."""

    @abstractmethod
    def stepwise(self, batch: int) -> Steps:
        """One level after another, with what was computed for the earlier ones kept: the same logits as `forward`."""


def _shifted(x: Tensor) -> Tensor:
    """Moved by one place along the last dimension, towards the later ones."""
    return F.pad(x, (1, -1))


class _RowLayer(nn.Module):
    """An LSTM from row to row. Its gates see the same and the earlier place of its input, and the state above."""

    def __init__(self, width: int, reach: int) -> None:
        super().__init__()
        self.here = nn.Conv1d(width, 4 * width, 1)
        self.before = nn.Conv1d(width, 4 * width, 1, bias=False)
        self.above = nn.Conv1d(width, 4 * width, 2 * reach + 1, padding=reach, bias=False)
        self.out = nn.Conv1d(width, width, 1)

    def inputs(self, x: Tensor, earlier: Tensor) -> Tensor:
        """The input's part of the gates."""
        gates: Tensor = self.here(x) + self.before(earlier)
        return gates

    def step(self, gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(output, hidden state, cell) of places whose gates are complete."""
        forget, enter, show, new = gates.chunk(4, dim=1)
        cell = (forget + 1).sigmoid() * cell + enter.sigmoid() * new.tanh()
        hidden = show.sigmoid() * cell.tanh()
        return self.out(hidden), hidden, cell


class RowLSTM(PixelNetwork):
    """The row LSTM of PixelRNN (van den Oord et al. 2016).

    A masked convolution sees three rows above and three pixels to the left; the layers on it carry a state from row to
    row, so that a level depends on a triangle above it, and on its row to the left. In training all places of a row are
    computed at once.

    Args:
        shape: (H, L).
        width: of every layer.
        layers: LSTMs on one another, each added to its input.
    """

    REACH = 3  # rows above, and places beside

    def __init__(self, shape: tuple[int, int], *, width: int, layers: int) -> None:
        super().__init__()
        self.shape, self.width = shape, width
        self.embedding = nn.Embedding(LEVELS, width)
        self.above = nn.Conv2d(width, width, (self.REACH, 2 * self.REACH + 1), padding=(0, self.REACH))
        self.before = nn.Conv1d(width, width, self.REACH, bias=False)
        self.layers = nn.ModuleList(_RowLayer(width, self.REACH) for _ in range(layers))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(width, width, 1), nn.ReLU(), nn.Conv1d(width, LEVELS, 1))

    def forward(self, levels: Tensor) -> Tensor:
        """See `PixelNetwork.forward`."""
        batch, height, length = levels.shape
        embedded = self.embedding(levels).permute(0, 3, 1, 2)
        above = self.above(F.pad(embedded, (0, 0, self.REACH, -1)))
        rows = embedded.transpose(1, 2).flatten(0, 1)
        before = self.before(_shifted(F.pad(rows, (self.REACH - 1, 0))))
        x = above + before.view(batch, height, self.width, length).transpose(1, 2)
        for each in self.layers:
            assert isinstance(each, _RowLayer)
            flat = x.transpose(1, 2).flatten(0, 1)
            gates = each.inputs(flat, _shifted(flat)).view(batch, height, 4 * self.width, length)
            hidden = cell = x.new_zeros(batch, self.width, length)
            outputs = []
            for row in range(height):
                output, hidden, cell = each.step(gates[:, row] + each.above(hidden), cell)
                outputs.append(output)
            x = x + torch.stack(outputs, dim=2)
        logits: Tensor = self.head(x.flatten(2))
        return logits.view(batch, LEVELS, height, length).permute(0, 2, 3, 1)

    def stepwise(self, batch: int) -> Steps:
        """See `PixelNetwork.stepwise`: a place costs the same wherever it is."""
        height, length = self.shape
        layers = [each for each in self.layers if isinstance(each, _RowLayer)]
        zeros = self.embedding.weight.new_zeros
        rows = zeros(batch, self.width, self.REACH, length)  # embedded, the last ones
        hidden = [zeros(batch, self.width, length) for _ in self.layers]
        cell = [zeros(batch, self.width, length) for _ in self.layers]
        for _ in range(height):
            above = self.above(rows)[:, :, 0]
            states = [each.above(state) for each, state in zip(layers, hidden, strict=True)]
            row = zeros(batch, self.width, self.REACH + length)
            earlier = [zeros(batch, self.width, 1) for _ in self.layers]
            hidden, new_cell = [torch.zeros_like(each) for each in hidden], [torch.zeros_like(each) for each in cell]
            for place in range(length):
                here = slice(place, place + 1)
                x = above[:, :, here] + self.before(row[:, :, place : place + self.REACH])
                for number, each in enumerate(layers):
                    gates = each.inputs(x, earlier[number]) + states[number][:, :, here]
                    earlier[number] = x
                    output, new_hidden, new = each.step(gates, cell[number][:, :, here])
                    hidden[number][:, :, here], new_cell[number][:, :, here] = new_hidden, new
                    x = x + output
                levels = yield self.head(x)[:, :, 0]
                row[:, :, self.REACH + place] = self.embedding(levels)
            cell = new_cell
            rows = torch.cat([rows[:, :, 1:], row[:, :, None, self.REACH :]], dim=2)


def _attention(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
    """On a CPU in float32: the gradient in bfloat16 takes five times as long."""
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, is_causal=causal)
    with torch.autocast("cpu", enabled=False):
        query, key, value = (each if each.dtype == torch.float64 else each.float() for each in (query, key, value))
        return F.scaled_dot_product_attention(query, key, value, is_causal=causal)


class _Block(nn.Module):
    """Attention to the earlier tokens, then a perceptron; each normalised before and added to its input."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, kept: Tensor | None = None, place: int = 0) -> Tensor:
        """(B, N, width) → the same; or the token of a place, (B, 1, width), with the keys and values of the earlier.

        Args:
            x: tokens.
            kept: keys and values (2, B, heads, N, width/heads), where those of this place are put; None for all tokens.
            place: of the token.
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


class Transformer(PixelNetwork):
    """A Transformer decoder (Vaswani et al. 2017) over the levels, which know their row and their place in it.

    Args:
        shape: (H, L).
        width: of a token.
        layers: blocks.
        heads: of the attention.
        dropout: probability after attention and perceptron.
    """

    def __init__(self, shape: tuple[int, int], *, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.shape, self.width, self.heads = shape, width, heads
        self.embedding = nn.Embedding(LEVELS + 1, width)  # the last stands before the first level
        self.row, self.place = (nn.Parameter(0.02 * torch.randn(length, width)) for length in shape)
        self.blocks = nn.ModuleList(_Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, LEVELS)

    def _positions(self) -> Tensor:
        """(H·L, width)."""
        return (self.row[:, None] + self.place).flatten(0, 1)

    def forward(self, levels: Tensor) -> Tensor:
        """See `PixelNetwork.forward`."""
        before = F.pad(levels.flatten(1), (1, -1), value=LEVELS)
        x = self.embedding(before) + self._positions()
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits.view(-1, *self.shape, LEVELS)

    def stepwise(self, batch: int) -> Steps:
        """See `PixelNetwork.stepwise`: the keys and values of the earlier tokens are kept."""
        positions = self._positions()
        kept = positions.new_zeros(len(self.blocks), 2, batch, self.heads, len(positions), self.width // self.heads)
        before = torch.full((batch,), LEVELS, device=positions.device)
        for place, position in enumerate(positions):
            x = (self.embedding(before) + position)[:, None]
            for block, each in zip(self.blocks, kept, strict=True):
                x = block(x, each, place)
            before = yield self.head(self.norm(x))[:, 0]
