"""The endless stream of training batches, a function of (seed, step) alone."""

from collections.abc import Callable, Iterator
from functools import lru_cache

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
    """The images (B, C, H, W), those of them left to right that `mirrored` (bool, (B,)) says."""
    both = torch.cat([images, images.flip(-1)])
    return both.index_select(0, torch.arange(len(images), device=images.device) + len(images) * mirrored)


class InfiniteBatches(IterableDataset[dict[str, Tensor]]):
    """Batches for ever, starting at any optimiser step.

    The images form one endless stream: pass p over them is a permutation that depends on (seed, p) alone.
    Step k takes the positions [k · batch_size, (k + 1) · batch_size) of the stream, across the end of a pass
    where need be. Of these, accumulated batch m on rank r takes b = batch_size / (world_size · accumulate)
    from (m · world_size + r) · b on. Which images are mirrored depends on (seed, pass, position in it).
    So how the work is spread over ranks, accumulated batches and workers changes nothing, and a run that
    starts at step k continues one that stopped there.

    For ``DataLoader(batches, batch_size=None, num_workers=any)``. Items are dicts: ``images``, uint8
    (b, C, H, W), ``index``, int64 (b,), their numbers in the set, and ``labels``, int64 (b,), if they have any. Without
    `pixels` they have ``index`` and, if some are mirrored, ``mirrored``, bool (b,): for callers that hold the set.

    Args:
        images: what to read.
        batch_size: images per optimiser step, over all ranks and accumulated batches.
        rank: of this process, in [0, world_size).
        world_size: processes that train together.
        accumulate: batches per optimiser step on each process.
        seed: of the order and the mirroring.
        random_flip: mirror half of the images left to right.
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
            raise ValueError("there are no images to make batches of")
        if batch_size % (world_size * accumulate):
            raise ValueError(f"batch_size {batch_size} is not divisible by {world_size} ranks · {accumulate} batches")
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
        passes = lru_cache(maxsize=2)(self._pass)  # a batch may lie across two
        # the loader asks its workers in turn: worker w of n makes batches w, w + n, …
        batch = self.start_step * self.accumulate + number
        while True:
            yield self._batch(batch, passes)
            batch += every

    def _batch(self, batch: int, passes: Callable[[int], Pass]) -> dict[str, Tensor]:
        """This rank's batch, counted from the start of training."""
        size = self.batch_size // (self.world_size * self.accumulate)
        start = (batch * self.world_size + self.rank) * size
        indices, flips = map(torch.from_numpy, self._positions(start, start + size, passes))
        item = {"index": indices}
        if not self.pixels:
            return {**item, "mirrored": flips} if self.random_flip else item
        item["images"] = flip(self.images.fetch(indices), flips) if self.random_flip else self.images.fetch(indices)
        if self.images.labels is not None:
            item["labels"] = self.images.labels[indices]
        return item

    def _positions(self, start: int, stop: int, passes: Callable[[int], Pass]) -> Pass:
        """Which images are at [start, stop) of the stream, and whether they are mirrored: int64 and bool."""
        length = len(self.images)
        pieces = [
            (indices[max(start - begin, 0) : stop - begin], flips[max(start - begin, 0) : stop - begin])
            for begin in range(start // length * length, stop, length)
            for indices, flips in [passes(begin // length)]
        ]
        indices, flips = zip(*pieces, strict=True)
        return np.concatenate(indices), np.concatenate(flips)

    def _pass(self, number: int) -> Pass:
        """The order of the images in a pass over them, and which of its positions are mirrored."""
        # Ranks of raw random bits: numpy promises that these bits never change, but not what shuffle makes of them.
        order = np.argsort(self._bits("order", number), kind="stable")
        return order, self._bits("flip", number) >> 63 == 1

    def _bits(self, purpose: str, number: int) -> NDArray[np.uint64]:
        return np.random.Philox(key=derive_seed(purpose, self.seed, number)).random_raw(len(self.images))
