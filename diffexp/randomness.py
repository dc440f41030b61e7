"""Addressed randomness: every random number is a function of what it is for, not of what was drawn before.

So a resumed run draws what the uninterrupted one would have drawn, and a result does not depend on how
the work was cut into batches, devices or processes. An address is a tuple such as ("noise", seed, step);
no generator's state is ever saved.
"""

import hashlib
from collections.abc import Sequence

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


class ImageNoise:
    """The noise that makes images: image i gets a stream of normals that depends on (seed, i) alone.

    The first draw is x_T; each further draw is the z of one sampling step. The streams are numpy's
    Philox, keyed with 128 bits and drawn on the host: torch's CPU generator keeps only 32 bits of its
    seed, so that among 50,000 images two would be expected to be twins, and its numbers differ from a GPU's.

    Args:
        seed: of the whole set of images.
        indices: which images, in the order of the batch.
        shape: of one image, (C, H, W).
        device: where the noise is wanted.
    """

    def __init__(self, seed: int, indices: Sequence[int], shape: Sequence[int], device: torch.device) -> None:
        self._streams = [
            np.random.Generator(np.random.Philox(key=[derive_seed("image", seed), index])) for index in indices
        ]
        self._shape = tuple(shape)
        self._device = device

    def draw(self) -> Tensor:
        """The next normals of every image: float32, shape (len(indices), C, H, W)."""
        noise = torch.empty(len(self._streams), *self._shape)
        for row, stream in zip(noise.numpy(), self._streams, strict=True):
            stream.standard_normal(dtype=np.float32, out=row)
        return noise.to(self._device)
