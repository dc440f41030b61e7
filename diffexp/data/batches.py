"""An endless stream of training batches that depends only on (seed, step)."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from diffexp.data.images import ImageSet
from diffexp.rng import derive_seed

Indices = NDArray[np.int64]
Flips = NDArray[np.bool_]
Pass = tuple[Indices, Flips]


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror the images (B, C, H, W) for which `mirrored`, bool (B,), is True left to right."""
    both = torch.cat([images, images.flip(-1)])
    return both.index_select(0, torch.arange(len(images), device=images.device) + len(images) * mirrored)


class InfiniteBatches(IterableDataset[dict[str, Tensor]]):
    """An endless stream of batches that can start at any optimiser step.

    Pass p over the N images is a permutation that depends only on (seed, p). The passes form one stream of positions:

    - Step k reads the positions [k · batch_size, (k + 1) · batch_size), across the end of a pass if necessary.
    - Within it, accumulated batch m on rank r reads b = batch_size / (world_size · accumulate) positions, starting at
      (m · world_size + r) · b.
    - Whether an image is mirrored depends on (seed, pass, position in the pass).

    The data of a step is thus independent of ranks, accumulated batches and workers, and a run that starts at step k
    continues one that stopped there.

    Use it as ``DataLoader(batches, batch_size=None, num_workers=any)``. Each item is a dict:

    - ``images``: uint8 (b, C, H, W).
    - ``index``: the numbers of the images in the set, int64 (b,).
    - ``labels``: int64 (b,), if the images have labels.

    Without `pixels`, an item has ``index`` and, with `random_flip`, ``mirrored``, bool (b,). The caller then holds the
    set.

    Args:
        images: the set to read.
        batch_size: images per optimiser step, over all ranks and accumulated batches.
        rank: rank of this process, in [0, world_size).
        world_size: number of processes that train together.
        accumulate: batches per optimiser step on each process.
        seed: seed of order and mirroring.
        random_flip: mirror each image left to right with probability 1/2.
        start_step: optimiser steps already done.
        pixels: whether to fetch the images.

    Raises:
        ValueError: if there are no images, or batch_size is not divisible by world_size · accumulate.
    """

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        seed: int = 0,
        random_flip: bool = False,
        start_step: int = 0,
        pixels: bool = True,
    ) -> None:
        if not len(images):
            raise ValueError("images: expected at least one image, got none.")
        if batch_size % (world_size * accumulate):
            raise ValueError(
                f"batch_size: expected a multiple of {world_size} ranks · {accumulate} batches, got {batch_size}."
            )
        self.images = images
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.accumulate = accumulate
        self.seed = seed
        self.random_flip = random_flip
        self.start_step = start_step
        self.pixels = pixels

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        worker = get_worker_info()
        number, every = (worker.id, worker.num_workers) if worker else (0, 1)
        passes = lru_cache(maxsize=2)(self._pass)  # a batch may span two
        # The loader reads its workers in turn: worker w of n yields batches w, w + n, ….
        batch = self.start_step * self.accumulate + number
        while True:
            yield self._batch(batch, passes)
            batch += every

    def _batch(self, batch: int, passes: Callable[[int], Pass]) -> dict[str, Tensor]:
        """Return this rank's batch number `batch`, counted from the start of training."""
        size = self.batch_size // (self.world_size * self.accumulate)
        start = (batch * self.world_size + self.rank) * size
        indices, flips = map(torch.from_numpy, self._positions(start, start + size, passes))
        item: dict[str, Any] = {"index": indices}
        if not self.pixels:
            return {**item, "mirrored": flips} if self.random_flip else item
        item["images"] = flip(self.images.fetch(indices), flips) if self.random_flip else self.images.fetch(indices)
        if (labels := self.images.labels_at(indices)) is not None:
            item["labels"] = labels
        if warnings := self.images.take_warnings():
            item["warnings"] = warnings
        return item

    def _positions(self, start: int, stop: int, passes: Callable[[int], Pass]) -> Pass:
        """Return the images at [start, stop) of the stream, int64, and whether they are mirrored, bool."""
        length = len(self.images)
        pieces = [
            (indices[max(start - begin, 0) : stop - begin], flips[max(start - begin, 0) : stop - begin])
            for begin in range(start // length * length, stop, length)
            for indices, flips in [passes(begin // length)]
        ]
        indices, flips = zip(*pieces, strict=True)
        return np.concatenate(indices), np.concatenate(flips)

    def _pass(self, number: int) -> Pass:
        """Return the order of the images in a pass, and which of its positions are mirrored."""
        # Argsort of raw random bits: numpy guarantees that these bits never change, but not the result of shuffle.
        order = np.argsort(self._bits("order", number), kind="stable")
        return order, self._bits("flip", number) >> 63 == 1

    def _bits(self, purpose: str, number: int) -> NDArray[np.uint64]:
        return np.random.Philox(key=derive_seed(purpose, self.seed, number)).random_raw(len(self.images))
