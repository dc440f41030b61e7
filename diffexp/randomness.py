"""Addressed randomness: every random number is a function of what it is for, not of what was drawn before.

So a resumed run draws what the uninterrupted one would have drawn, and a result does not depend on how
the work was cut into batches, devices or processes. An address is a tuple such as ("noise", seed, step);
no generator's state is ever saved.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor


def derive_seed(*address: int | str) -> int:
    """A 64-bit seed that is a function of the address alone, the same on every machine.

    Args:
        address: what the random numbers are for. The parts' order and types count: 1 is not "1".

    Returns:
        An integer in [0, 2**64).
    """
    digest = hashlib.blake2b(repr(address).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def generator(device: torch.device, *address: int | str) -> torch.Generator:
    """A torch generator on `device`, seeded by the address."""
    return torch.Generator(device).manual_seed(derive_seed(*address))


def seed_drawing(device: torch.device, *address: int | str) -> None:
    """Seed what is drawn without a generator, on the host and on `device`, by the address.

    As torch.manual_seed, which takes 1.7 ms for notes to itself about kinds of devices that are not in use.
    """
    seed = derive_seed(*address)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


_AT_ONCE = 16  # draws that are made at once
_NUMBERS_AT_ONCE = 2**22  # but not more than 16 MB of numbers


class ImageNoise:
    """The noise that makes images: image i gets a stream of normals that depends on (seed, i) alone.

    The first draw is x_T; each further draw is the z of one sampling step. The streams are numpy's
    Philox, keyed with 128 bits and drawn on the host: torch's CPU generator keeps only 32 bits of its
    seed, so that among 50,000 images two would be expected to be twins, and its numbers differ from a GPU's.

    Args:
        seed: of the whole set of images.
        indices: which images, in the order of the batch; kept as an attribute.
        shape: of one image, (C, H, W).
        device: where the noise is wanted.
    """

    def __init__(self, seed: int, indices: Sequence[int], shape: Sequence[int], device: torch.device) -> None:
        self.indices = indices
        self._streams = [
            np.random.Generator(np.random.Philox(key=[derive_seed("image", seed), index])) for index in indices
        ]
        self._shape = tuple(shape)
        self._device = device
        self._draws = self._endless()

    def draw(self) -> Tensor:
        """The next normals of every image: float32, shape (len(indices), C, H, W)."""
        return next(self._draws)

    def _endless(self) -> Iterator[Tensor]:
        """Draws, many made at once, because asking a stream takes longer than the numbers of a small image."""
        yield from self._several(1)  # x_T, which may be all that is wanted
        draws = max(1, min(_AT_ONCE, _NUMBERS_AT_ONCE // (len(self._streams) * math.prod(self._shape))))
        if self._device.type == "cpu":  # all its threads have work
            while True:
                yield from self._several(draws)
        beside = ThreadPoolExecutor(max_workers=1)
        coming = beside.submit(self._several, draws)
        while True:
            here, coming = coming.result(), beside.submit(self._several, draws)
            yield from here

    def _several(self, draws: int) -> Tensor:
        """The next `draws` draws: (draws, images, C, H, W)."""
        noise = torch.empty(len(self._streams), draws, *self._shape)
        for row, stream in zip(noise.numpy(), self._streams, strict=True):
            stream.standard_normal(dtype=np.float32, out=row)
        return noise.transpose(0, 1).to(self._device).contiguous()
