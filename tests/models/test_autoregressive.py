import math

import pytest
import torch

from diffexp.config.schemas.requests import LikelihoodConfig
from diffexp.config.schemas.samplers import AncestralConfig
from diffexp.data.images import to_uint8
from diffexp.models.autoregressive import AutoregressiveModule, as_images, as_rows
from diffexp.networks.autoregressive import LEVELS, AutoregressiveNetwork
from diffexp.networks.row_lstm import RowLSTM


class Fair(AutoregressiveNetwork):
    """Each level is 3 or the level before plus 1, at even odds; the first is 3."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def _after(self, before):
        logits = torch.full((*before.shape, LEVELS), -torch.inf, dtype=torch.float64)
        logits[..., 3] = 0
        return logits.scatter(-1, (before + 1)[..., None], 0)

    def forward(self, levels):
        before = torch.nn.functional.pad(levels.flatten(1), (1, -1), value=2)
        return self._after(before).view(*levels.shape, LEVELS)

    def stepwise(self, batch):
        before = torch.full((batch,), 2)
        while True:
            before = yield self._after(before)


def test_channels_stand_beside_each_other():
    images = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5)
    rows = as_rows(images)
    assert rows[1, 2, :7].tolist() == [
        images[1, channel, 2, column] for column, channel in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0))
    ]
    assert torch.equal(as_images(rows, 3), images)


def test_bits_are_exact():
    model = AutoregressiveModule((1, 2, 2), Fair())
    images = torch.tensor([[[[3, 3], [4, 5]]], [[[3, 4], [3, 4]]]], dtype=torch.uint8)
    found = model.bits_per_dim(images, [0, 1], 0, LikelihoodConfig())["exact"]
    # after the first, each of three costs a bit
    torch.testing.assert_close(found, torch.tensor([0.75, 0.75]))
    images[0, 0, 1, 1] = 9
    assert math.isinf(model.bits_per_dim(images, [0, 1], 0, LikelihoodConfig())["exact"][0])


def test_samples_follow_the_probabilities():
    model = AutoregressiveModule((1, 2, 2), Fair())
    drawn = to_uint8(model.sample(AncestralConfig(), range(4000), 7)).flatten(1)
    kinds, counts = drawn.unique(dim=0, return_counts=True)
    assert sorted(kinds.tolist()) == sorted([3, a, b, c] for a in (3, 4) for b in (3, a + 1) for c in (3, b + 1))
    assert (counts - 500).abs().max() < 5 * math.sqrt(500 * 7 / 8)


def test_a_low_temperature_takes_the_likeliest_level():
    torch.manual_seed(0)
    model = AutoregressiveModule((1, 3, 4), RowLSTM((3, 4), width=8, layers=1))
    cold = to_uint8(model.sample(AncestralConfig(temperature=1e-4), range(3), 0))
    logits = model.network(as_rows(cold).long())
    assert torch.equal(logits.argmax(-1), as_rows(cold).long())
    assert cold.unique(dim=0).shape[0] == 1
    assert to_uint8(model.sample(AncestralConfig(), range(3), 0)).unique(dim=0).shape[0] == 3


def test_the_bits_of_samples_are_the_entropy():
    torch.manual_seed(0)
    network = RowLSTM((1, 2), width=8, layers=1)
    model = AutoregressiveModule((1, 1, 2), network)
    for weights in network.parameters():
        weights.data *= 3
    images = torch.cartesian_prod(torch.arange(LEVELS), torch.arange(LEVELS)).to(torch.uint8)[:, None, None]
    with torch.no_grad():
        bits = model.bits(images)
    chances = 2 ** (-2 * bits)
    entropy = (chances * bits).sum()
    found = model.bits_per_dim(
        to_uint8(model.sample(AncestralConfig(), range(3000), 1)), range(3000), 0, LikelihoodConfig()
    )["exact"]
    assert found.mean() == pytest.approx(entropy.item(), abs=5 * found.std().item() / 3000**0.5)
