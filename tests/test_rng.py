import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from diffexp.rng import PerSampleNoise, RandomNumbers, _philox, derive_seed, generator, seed_default_generators

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
    whole = PerSampleNoise(seed, indices, (1, 3, 2), CPU)
    draws = [whole.draw() for _ in range(3)]
    one = data.draw(st.integers(0, len(indices) - 1))
    alone = PerSampleNoise(seed, [indices[one]], (1, 3, 2), CPU)
    for draw in draws:
        assert torch.equal(draw[one], alone.draw()[0])


def test_what_is_drawn_without_a_generator_is_seeded_as_by_torch():
    seed_default_generators(CPU, "dropout", 3, 7)
    drawn = torch.rand(5)
    torch.manual_seed(derive_seed("dropout", 3, 7))
    assert torch.equal(torch.rand(5), drawn)


# The first vectors of philox4x32 10 in Random123's kat_vectors: counter, key, words.
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([2**32 - 1] * 4, [2**32 - 1] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_the_words_are_those_that_the_authors_publish(counter, key, words):
    found = _philox(key[0] + (key[1] << 32), tuple(torch.tensor(word) for word in counter))
    assert [int(word) for word in found] == words


def test_normals_are_box_mullers_of_the_words():
    """In scalar arithmetic: the words of counter (block, draw, position), two normals of each pair."""
    key, position, draw = derive_seed("any"), 2**33 + 5, 7
    found = RandomNumbers(key, torch.tensor([3, position])).draws(draw, 1, (2, 5))[0]
    drawn = found.normals[1].flatten().tolist()
    planes = [[], [], [], []]
    for block in range(1, 4):
        counter = (block, draw, position % 2**32, position >> 32)
        words = [int(word) for word in _philox(key, tuple(torch.tensor(each) for each in counter))]
        for pair in (0, 2):
            radius = math.sqrt(-2 * math.log((words[pair] + 1) / 2**32))
            angle = 2 * math.pi * words[pair + 1] / 2**32
            planes[pair].append(radius * math.cos(angle))
            planes[pair + 1].append(radius * math.sin(angle))
    assert drawn == pytest.approx([*planes[0], *planes[1], *planes[2], *planes[3]][:10], rel=1e-6)


@pytest.mark.parametrize("shape", [(1, 3, 3), (3, 64, 64)])
def test_however_many_are_computed_at_once_a_draw_is_the_same(shape):
    noise = PerSampleNoise(3, [7, 2, 90], shape, CPU)
    numbers = RandomNumbers(derive_seed("image", 3), torch.tensor([7, 2, 90]))
    for draw in range(40):
        assert torch.equal(noise.draw(), numbers.draws(draw, 1, shape)[0].normals)


def test_uniform_numbers_are_uniform_and_below_one():
    for numbers in RandomNumbers(1, torch.arange(100_000)).draws(0, 1, (1,))[0].uniforms:
        assert 0 <= numbers.min() < 1e-4
        assert 1 - 1e-4 < numbers.max() < 1
        assert stats.kstest(numbers.numpy(), "uniform").pvalue > 1e-4


def test_uniform_numbers_are_the_words_of_the_first_block():
    found = RandomNumbers(7, torch.tensor([3, 9])).draws(5, 1, (2,))[0].uniforms
    for column, position in enumerate((3, 9)):
        words = [int(word) for word in _philox(7, tuple(torch.tensor(each) for each in (0, 5, position, 0)))]
        assert found[:, column].tolist() == [word / 2**32 for word in words]  # exactly, so below 1


def test_all_that_a_draw_gives_is_uncorrelated():
    draws = RandomNumbers(4, torch.arange(50_000)).draws(0, 3, (3,))
    columns = [column for draw in draws for column in (*draw.uniforms, *draw.normals.T.double())]
    correlations = torch.corrcoef(torch.stack(columns)) - torch.eye(len(columns))
    assert correlations.abs().max() < 5 / math.sqrt(50_000)


def test_a_million_normals_have_the_moments_of_normals():
    values = RandomNumbers(2, torch.arange(1000)).draws(0, 1, (1000,))[0].normals.double()
    for power, (moment, variance) in {1: (0, 1), 2: (1, 2), 3: (0, 15), 4: (3, 96)}.items():
        assert (values**power).mean().item() == pytest.approx(moment, abs=5 * math.sqrt(variance / 1e6))


def test_draws_are_independent_standard_normals():
    noise = PerSampleNoise(0, range(200), (1, 8, 8), CPU)
    values = torch.stack([noise.draw() for _ in range(3)]).numpy()
    assert stats.kstest(values.ravel(), "norm").pvalue > 1e-3
    for pair in (values[0], values[1]), (values[:, :100], values[:, 100:]):
        assert abs(np.corrcoef(pair[0].ravel(), pair[1].ravel())[0, 1]) < 0.03


@pytest.mark.parametrize("seeds", [(0, 1), (5, 6)])
def test_seeds_give_other_images(seeds):
    first, second = (PerSampleNoise(seed, range(4), (1, 8, 8), CPU).draw() for seed in seeds)
    assert (first - second).abs().min() > 0
