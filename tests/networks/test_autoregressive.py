import pytest
import torch

from diffexp.networks.autoregressive import LEVELS
from diffexp.networks.row_lstm import RowLSTM
from diffexp.networks.transformer import Transformer

NETWORKS = {
    "row_lstm": lambda shape: RowLSTM(shape, width=12, layers=2),
    "transformer": lambda shape: Transformer(shape, width=12, layers=2, heads=3, dropout=0.0),
}


def network(name, shape=(5, 6)):
    torch.manual_seed(0)
    built = NETWORKS[name](shape).double().eval()
    for weights in built.parameters():  # also those that start at zero
        weights.data += 0.2 * torch.randn_like(weights)
    return built


@pytest.mark.parametrize("name", NETWORKS)
def test_no_gradient_comes_from_a_level_or_a_later_one_and_some_from_every_level_in_sight(name):
    built, embedded = network(name), []

    def keep(_, __, output):
        embedded.append(output.requires_grad_())

    built.embedding.register_forward_hook(keep)
    logits = built(torch.randint(LEVELS, (1, 5, 6))).flatten(1, 2)
    for place in range(30):
        (slope,) = torch.autograd.grad(logits[0, place].square().sum(), embedded[0], retain_graph=True)
        reached = slope.reshape(30, -1).abs().sum(1) > 0
        if name == "transformer":  # its inputs are one place late: the first stands before the image
            assert reached.tolist() == [True] * (place + 1) + [False] * (29 - place)
        else:
            assert not reached[place:].any()
            row, column = divmod(place, 6)
            left = slice(place - min(column, 3), place)
            above = [(row - 1) * 6 + each for each in range(max(0, column - 3), min(6, column + 4)) if row]
            assert reached[left].all()
            assert reached[above].all()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [(5, 6), (2, 3)], ids=str)
def test_one_level_after_another_gives_the_same_logits(name, shape):
    built, levels = network(name, shape), torch.randint(LEVELS, (3, *shape))
    with torch.no_grad():
        expected = built(levels).flatten(1, 2)
        steps = built.stepwise(3)
        found = [next(steps)]
        for level in levels.flatten(1).T[:-1]:
            found.append(steps.send(level))
    torch.testing.assert_close(torch.stack(found, dim=1), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_probabilities_of_all_images_of_two_levels_sum_to_one(name):
    built = network(name, (1, 2))
    total = 0.0
    with torch.no_grad():
        for first in torch.arange(LEVELS).split(64):
            images = torch.cartesian_prod(first, torch.arange(LEVELS))[:, None]
            chances = built(images).log_softmax(-1).gather(-1, images[..., None]).sum(dim=(1, 2, 3))
            total += chances.exp().sum().item()
    assert total == pytest.approx(1, abs=1e-12)
