"""Addressed randomness: every random number depends only on its purpose, not on earlier random numbers.

A resumed run thus draws the same numbers as an uninterrupted one. Results do not depend on the division of the work
into batches, devices or processes. An address is a tuple such as ("noise", seed, step). No generator state is saved.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from diffexp.system.devices import float64_device


def derive_seed(*address: int | str) -> int:
    """Return a 64-bit seed that depends only on the address, the same on every machine.

    Args:
        address: the purpose of the random numbers. Order and types of its parts matter: 1 is not "1".

    Returns:
        An integer in [0, 2**64).
    """
    digest = hashlib.blake2b(repr(address).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def generator(device: torch.device, *address: int | str) -> torch.Generator:
    """Return a torch generator on `device`, seeded by the address."""
    return torch.Generator(device).manual_seed(derive_seed(*address))


def seed_default_generators(device: torch.device, *address: int | str) -> None:
    """Seed torch's default generators on the host and on `device` by the address.

    It replaces torch.manual_seed, which takes 1.7 ms because it also handles kinds of devices that are not in use.
    """
    seed = derive_seed(*address)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_INCREMENTS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_WORD = 0xFFFFFFFF  # the 32 bits of a word


@dataclass(frozen=True)
class Draw:
    """The random numbers of one draw for B images.

    Attributes:
        normals: N(0, 1), float32, shape `(B, *shape)`.
        uniforms: four uniform numbers in [0, 1) for each image, multiples of 2⁻³², float64 (4, B); on a device without
            float64 multiples of 2⁻²⁴, float32.
        positions: positions of the images, int64 (B,).
    """

    normals: Tensor
    uniforms: Tensor
    positions: Tensor


class RandomNumbers:
    """Counter-based random numbers for the images of a batch; an image's depend only on (key, its position, draw).

    The generator is Philox4x32-10 (Salmon et al. 2011), a function of a 64-bit key and a 128-bit counter. It runs as
    tensor operations on the device of the positions. A GPU thus draws for a batch in parallel, and draws the same
    numbers as a CPU.

    The integers agree exactly. Normals come from them by the Box-Muller transform in float64, rounded to float32. Two
    devices therefore differ in about one normal of 10⁸, by its last bit.

    Args:
        key: in [0, 2⁶⁴), for instance from `derive_seed`.
        positions: positions of the images, int64 (B,), in [0, 2⁶³), on the device that needs the numbers.
    """

    def __init__(self, key: int, positions: Tensor) -> None:
        self.key = key
        self.positions = positions

    def draws(self, first: int, several: int, shape: Sequence[int]) -> list[Draw]:
        """Compute several consecutive draws at once.

        Args:
            first: number of the first draw, in [0, 2³²).
            several: number of draws.
            shape: shape of the normals of an image.
        """
        device, size = float64_device(self.positions.device), math.prod(shape)
        positions = self.positions.to(device)
        blocks = -(-size // 4)
        block = torch.arange(1 + blocks, device=device)  # the first block gives the uniforms
        draw = torch.arange(first, first + several, device=device)[:, None, None]
        low, high = (positions & _WORD)[:, None], (positions >> 32)[:, None]
        words = _philox(self.key, (block, draw, low, high))  # (several, B, 1 + blocks) each
        # in float64, because float32 rounds the largest to 1
        uniforms = torch.stack([word[:, :, 0] for word in words], dim=1).double().mul_(2.0**-32)
        normals = torch.empty(several, len(positions), 4, blocks, device=device)
        for pair in (0, 2):
            # 1 - u is in (0, 1], where the logarithm is finite
            radius = words[pair][:, :, 1:].double().add_(1).mul_(2.0**-32).log_().mul_(-2).sqrt_()
            angle = words[pair + 1][:, :, 1:].double().mul_(2 * math.pi / 2**32)
            normals[:, :, pair] = angle.cos().mul_(radius)
            normals[:, :, pair + 1] = angle.sin_().mul_(radius)
        normals = normals.flatten(2)[:, :, :size].reshape(several, -1, *shape)
        if device != self.positions.device:
            # the largest float32 below 1 is 1 - 2⁻²⁴
            uniforms = uniforms.mul_(2.0**24).floor_().mul_(2.0**-24).float()
            normals, uniforms = normals.to(self.positions.device), uniforms.to(self.positions.device)
        return [Draw(*each, self.positions) for each in zip(normals, uniforms, strict=True)]


def _philox(key: int, counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute Philox4x32-10 for broadcastable int64 tensors of 32-bit words (Salmon et al. 2011, section 3.3)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key & _WORD, key >> 32
    for _ in range(_ROUNDS):
        # Products are exact modulo 2⁶⁴. Only words that are multiplied next need their high bits cleared.
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0 = ((product1 >> 32) ^ c1).bitwise_xor_(k0).bitwise_and_(_WORD)
        c2 = ((product0 >> 32) ^ c3).bitwise_xor_(k1).bitwise_and_(_WORD)
        c1, c3 = product1, product0
        k0, k1 = (k0 + _INCREMENTS[0]) & _WORD, (k1 + _INCREMENTS[1]) & _WORD
    return c0, c1 & _WORD, c2, c3 & _WORD


_DRAWS_AT_ONCE = 8
_IN_CACHE, _AT_ONCE = 2**18, 2**21  # largest count of numbers computed at once, on a CPU and on a GPU


class DrawsAhead:
    """Consecutive draws of `RandomNumbers`, several of which are computed in advance.

    A draw takes about a hundred small operations. On a GPU, or on a CPU with a small batch, launching them dominates.

    Args:
        numbers: random numbers of the images.
        shape: shape of the normals of an image.
    """

    def __init__(self, numbers: RandomNumbers, shape: Sequence[int]) -> None:
        self._numbers = numbers
        self._shape = tuple(shape)
        limit = _IN_CACHE if numbers.positions.device.type == "cpu" else _AT_ONCE
        each = max(1, len(numbers.positions) * math.prod(self._shape))
        self._count = max(1, min(_DRAWS_AT_ONCE, limit // each))
        self._ahead: dict[int, Draw] = {}

    def at(self, number: int) -> Draw:
        """Return draw `number`, in [0, 2³²)."""
        if number not in self._ahead:
            self._ahead = dict(enumerate(self._numbers.draws(number, self._count, self._shape), number))
        return self._ahead[number]


class PerSampleNoise:
    """The noise of sampling: image i receives a stream of normals that depends only on (seed, i).

    The first draw is x_T; each further draw is the z of one sampling step. See `RandomNumbers`.

    Args:
        seed: seed of the set of images.
        indices: numbers of the images, in the order of the batch; also an attribute.
        shape: (C, H, W) of one image.
        device: the device that needs the noise.
    """

    def __init__(self, seed: int, indices: Sequence[int], shape: Sequence[int], device: torch.device) -> None:
        self.indices = indices
        self._shape = shape
        self._draws = self._infinite(seed, torch.tensor(list(indices), device=device))

    def draw(self) -> Tensor:
        """Return the next normals of every image: float32 (len(indices), C, H, W)."""
        return next(self._draws)

    def _infinite(self, seed: int, indices: Tensor) -> Iterator[Tensor]:
        numbers = RandomNumbers(derive_seed("image", seed), indices)
        yield numbers.draws(0, 1, self._shape)[0].normals  # x_T alone, because deterministic samplers need no more
        ahead = DrawsAhead(numbers, self._shape)
        for number in count(1):
            yield ahead.at(number).normals
