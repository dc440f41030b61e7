"""The Row LSTM of PixelRNN (van den Oord et al. 2016)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffexp.networks.autoregressive import LEVELS, AutoregressiveNetwork, Steps


def _shifted(x: Tensor) -> Tensor:
    """Shift x by one along the last dimension, towards later places, with a zero first."""
    return F.pad(x, (1, -1))


class _RowLayer(nn.Module):
    """An LSTM over rows. Its gates see its input at the same and the previous place, and the state of the row above."""

    def __init__(self, width: int, reach: int) -> None:
        super().__init__()
        self.here = nn.Conv1d(width, 4 * width, 1)
        self.before = nn.Conv1d(width, 4 * width, 1, bias=False)
        self.above = nn.Conv1d(width, 4 * width, 2 * reach + 1, padding=reach, bias=False)
        self.out = nn.Conv1d(width, width, 1)

    def inputs(self, x: Tensor, earlier: Tensor) -> Tensor:
        """Compute the input-to-state part of the gates."""
        gates: Tensor = self.here(x) + self.before(earlier)
        return gates

    def step(self, gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (output, hidden state, cell) for complete gates."""
        forget, enter, show, new = gates.chunk(4, dim=1)
        cell = (forget + 1).sigmoid() * cell + enter.sigmoid() * new.tanh()
        hidden = show.sigmoid() * cell.tanh()
        return self.out(hidden), hidden, cell


class RowLSTM(AutoregressiveNetwork):
    """The Row LSTM of PixelRNN (van den Oord et al. 2016).

    A masked convolution sees three rows above and three places to the left. The LSTM layers carry a state from row to
    row, so a level depends on a triangle above it and on its row to the left. In training, all places of a row are
    computed in parallel.

    Args:
        shape: (H, L) of the grid of levels.
        width: channels of every layer.
        layers: number of LSTM layers, each with a residual connection.
    """

    REACH = 3  # rows above, and places on either side

    def __init__(self, shape: tuple[int, int], *, width: int, layers: int) -> None:
        super().__init__()
        self.shape, self.width = shape, width
        self.embedding = nn.Embedding(LEVELS, width)
        self.above = nn.Conv2d(width, width, (self.REACH, 2 * self.REACH + 1), padding=(0, self.REACH))
        self.before = nn.Conv1d(width, width, self.REACH, bias=False)
        self.layers = nn.ModuleList(_RowLayer(width, self.REACH) for _ in range(layers))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(width, width, 1), nn.ReLU(), nn.Conv1d(width, LEVELS, 1))

    def forward(self, levels: Tensor) -> Tensor:
        """Map all levels, int64 (B, H, L), to logits (B, H, L, 256) at once."""
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
        """Compute the logits level by level, at the same cost for every place."""
        height, length = self.shape
        layers = [each for each in self.layers if isinstance(each, _RowLayer)]
        zeros = self.embedding.weight.new_zeros
        rows = zeros(batch, self.width, self.REACH, length)  # embeddings of the last rows
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
