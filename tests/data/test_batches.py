from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

from diffexp.data.batches import InfiniteBatches
from diffexp.data.images import MemoryImages


def numbered(count: int, labelled: bool = False) -> MemoryImages:
    """1×1×2 images: their number, then 0, so that a mirrored one is seen."""
    images = torch.zeros(count, 1, 1, 2, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(1, count + 1)
    return MemoryImages(images, torch.arange(count) * 7 if labelled else None, ["?"] * count if labelled else None)


def stream(batches: InfiniteBatches, count: int) -> Tensor:
    """The next `count` batches in one tensor (count · b, 2)."""
    return torch.cat([batch["images"] for batch in islice(batches, count)]).flatten(1)


def spread(images: MemoryImages, batch_size: int, world_size: int, accumulate: int, steps: int, **own: int) -> Tensor:
    """What all ranks see, put together in the order of the stream."""
    ranks = [
        [
            batch["images"].flatten(1)
            for batch in islice(
                InfiniteBatches(images, batch_size, rank=rank, world_size=world_size, accumulate=accumulate, **own),
                steps * accumulate,
            )
        ]
        for rank in range(world_size)
    ]
    return torch.cat([batch for together in zip(*ranks, strict=True) for batch in together])


@given(count=st.integers(1, 40), batch_size=st.integers(1, 60), seed=st.integers(0, 2**63))
@settings(max_examples=50, deadline=None)
def test_every_pass_is_a_permutation(count: int, batch_size: int, seed: int) -> None:
    """Also where batches straddle passes or are larger than the set."""
    batches = InfiniteBatches(numbered(count), batch_size, seed=seed)
    seen = stream(batches, -(-3 * count // batch_size))[: 3 * count, 0]
    for one in seen.reshape(3, count):
        assert sorted(one.tolist()) == list(range(1, count + 1))


@given(
    count=st.integers(1, 30),
    per_rank=st.integers(1, 5),
    world_size=st.integers(1, 4),
    accumulate=st.integers(1, 3),
    start_step=st.integers(0, 50),
)
@settings(max_examples=50, deadline=None)
def test_ranks_and_accumulation_change_nothing(
    count: int, per_rank: int, world_size: int, accumulate: int, start_step: int
) -> None:
    batch_size = per_rank * world_size * accumulate
    own = {"seed": 3, "random_flip": True, "start_step": start_step}
    alone = stream(InfiniteBatches(numbered(count), batch_size, **own), 4)
    assert torch.equal(spread(numbered(count), batch_size, world_size, accumulate, 4, **own), alone)


@given(count=st.integers(1, 30), batch_size=st.integers(1, 40), stop=st.integers(0, 9), flip=st.booleans())
@settings(max_examples=50, deadline=None)
def test_a_later_start_continues_the_stream(count: int, batch_size: int, stop: int, flip: bool) -> None:
    whole = stream(InfiniteBatches(numbered(count), batch_size, random_flip=flip), 12)
    rest = stream(InfiniteBatches(numbered(count), batch_size, random_flip=flip, start_step=stop), 12 - stop)
    assert torch.equal(rest, whole[stop * batch_size :])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers: int) -> None:
    batches = InfiniteBatches(
        numbered(50, labelled=True), 24, rank=1, world_size=2, accumulate=3, random_flip=True, start_step=5
    )
    loaded = iter(DataLoader(batches, batch_size=None, num_workers=workers))
    for expected in islice(batches, 30):
        batch = next(loaded)
        assert torch.equal(batch["images"], expected["images"])
        assert torch.equal(batch["labels"], expected["labels"])


def test_the_order_never_changes() -> None:
    """Drawn once: a run that was started with an older version must go on in the same order."""
    seen = stream(InfiniteBatches(numbered(8), 8, seed=1, random_flip=True), 2)
    assert seen.sum(dim=1).tolist() == [1, 8, 7, 2, 4, 3, 5, 6, 7, 8, 6, 3, 4, 1, 2, 5]
    assert (seen[:, 0] == 0).int().tolist() == [0, 0, 1, 1, 0, 1, 0, 0, 1, 0, 0, 1, 1, 0, 1, 1]


def test_passes_and_seeds_differ() -> None:
    first, second = stream(InfiniteBatches(numbered(200), 200, seed=1), 2).chunk(2)
    other = stream(InfiniteBatches(numbered(200), 200, seed=2), 1)
    high_bits = stream(InfiniteBatches(numbered(200), 200, seed=1 + 2**32), 1)
    for one in (second, other, high_bits):
        assert (one == first).float().mean() < 0.6  # the second pixel is always 0


def test_every_place_is_equally_likely() -> None:
    """Image 0's place in each of 2,000 passes over 4 images: 500 each, standard deviation 19."""
    passes = stream(InfiniteBatches(numbered(4), 4000), 2)[:, 0].reshape(2000, 4)
    counts = (passes == 1).sum(dim=0)
    assert (counts - 500).abs().max() < 5 * 19


def test_half_are_mirrored_anew_in_every_pass() -> None:
    seen = stream(InfiniteBatches(numbered(250), 250, random_flip=True), 40).reshape(40, 250, 2)
    mirrored = seen[..., 1] > 0
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.025)  # 5 standard deviations
    # of image 1 over the passes: neither always nor never
    first = (seen[..., 1] == 1).any(dim=1)
    assert 5 < int(first.sum()) < 35


def test_mirroring_turns_left_and_right_only() -> None:
    picture = torch.arange(24, dtype=torch.uint8).reshape(1, 2, 3, 4)
    [both] = {
        tuple(sorted({tuple(image.flatten().tolist()) for image in batch["images"]}))
        for batch in islice(InfiniteBatches(MemoryImages(picture), 64, random_flip=True), 1)
    }
    assert set(both) == {tuple(picture.flatten().tolist()), tuple(picture.flip(-1).flatten().tolist())}
    unchanged = next(iter(InfiniteBatches(MemoryImages(picture), 64)))["images"]
    assert (unchanged == picture).all()


def test_labels_go_with_their_images() -> None:
    batch = next(iter(InfiniteBatches(numbered(30, labelled=True), 16)))
    assert torch.equal(batch["labels"], (batch["images"][:, 0, 0, 0].long() - 1) * 7)
    assert torch.equal(batch["index"], batch["images"][:, 0, 0, 0].long() - 1)
    assert set(next(iter(InfiniteBatches(numbered(30), 16)))) == {"images", "index"}


def test_the_images_themselves_stay_as_they_are() -> None:
    images = numbered(10)
    before = images.images.clone()
    for batch in islice(InfiniteBatches(images, 10, random_flip=True), 3):
        batch["images"].zero_()
    assert torch.equal(images.images, before)


def test_batches_must_be_divisible_and_images_there() -> None:
    with pytest.raises(ValueError, match="batch_size: expected a multiple of 2 ranks · 3 batches, got 10"):
        InfiniteBatches(numbered(5), 10, world_size=2, accumulate=3)
    with pytest.raises(ValueError, match="images: expected at least one image"):
        InfiniteBatches(numbered(0), 10)
