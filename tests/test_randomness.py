import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from diffexp.randomness import ImageNoise, derive_seed, generator, seed_drawing

CPU = torch.device("cpu")


def test_seeds_depend_on_every_part_of_the_address():
    addresses = [("a", 1, 2), ("a", 2, 1), ("b", 1, 2), ("a", 12), ("a", "1", 2), ("a", 1, 2, 0)]
    assert len({derive_seed(*address) for address in addresses}) == len(addresses)
    assert derive_seed("order", 0, 1) == derive_seed("order", 0, 1)
    assert all(0 <= derive_seed("x", i) < 2**64 for i in range(100))


def test_generators_of_one_address_agree():
    draws = [torch.randn(5, generator=generator(CPU, "training", 3, step)) for step in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**40), st.lists(st.integers(0, 10**9), min_size=1, max_size=6, unique=True), st.data())
def test_image_i_depends_on_seed_and_i_alone(seed, indices, data):
    whole = ImageNoise(seed, indices, (1, 3, 2), CPU)
    draws = [whole.draw() for _ in range(3)]
    one = data.draw(st.integers(0, len(indices) - 1))
    alone = ImageNoise(seed, [indices[one]], (1, 3, 2), CPU)
    for draw in draws:
        assert torch.equal(draw[one], alone.draw()[0])


def test_what_is_drawn_without_a_generator_is_seeded_as_by_torch():
    seed_drawing(CPU, "dropout", 3, 7)
    drawn = torch.rand(5)
    torch.manual_seed(derive_seed("dropout", 3, 7))
    assert torch.equal(torch.rand(5), drawn)


def numpys(seed, index, shape, draws):
    stream = np.random.Generator(np.random.Philox(key=[derive_seed("image", seed), index]))
    return torch.from_numpy(np.stack([stream.standard_normal(shape, dtype=np.float32) for _ in range(draws)]))


@pytest.mark.parametrize("shape", [(1, 3, 3), (3, 64, 64)])
@pytest.mark.parametrize("device", ["cpu", "one beside which noise is drawn"])
def test_however_many_are_made_at_once_the_draws_are_numpys(shape, device):
    class Beside:
        """Moves like a CPU's, but is not called one."""

        type = "other"

    count = 40
    noise = ImageNoise(3, [7, 2, 90], shape, CPU)
    if device != "cpu":
        noise._device = Beside()
        noise._several = lambda draws, of=noise._several: (setattr(noise, "_device", CPU), of(draws))[1]
    drawn = [noise.draw() for _ in range(count)]
    for position, index in enumerate([7, 2, 90]):
        assert torch.equal(torch.stack([draw[position] for draw in drawn]), numpys(3, index, shape, count))


def test_draws_are_independent_standard_normals():
    noise = ImageNoise(0, range(200), (1, 8, 8), CPU)
    values = torch.stack([noise.draw() for _ in range(3)]).numpy()
    assert stats.kstest(values.ravel(), "norm").pvalue > 1e-3
    for pair in (values[0], values[1]), (values[:, :100], values[:, 100:]):
        assert abs(np.corrcoef(pair[0].ravel(), pair[1].ravel())[0, 1]) < 0.03


@pytest.mark.parametrize("seeds", [(0, 1), (5, 6)])
def test_seeds_give_other_images(seeds):
    first, second = (ImageNoise(seed, range(4), (1, 8, 8), CPU).draw() for seed in seeds)
    assert (first - second).abs().min() > 0
