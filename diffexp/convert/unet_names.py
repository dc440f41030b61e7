"""The blocks of the U-Net of Ho et al. 2020 in our network, to map them to other libraries' names."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffexp.config.schemas.networks import UNetConfig

NETWORK = "network."  # prefix of our names in a model's weights


@dataclass(frozen=True)
class Block:
    """One block.

    Attributes:
        ours: name of its module in our network.
        kind: residual, attention or resampling block.
        part: encoder ("down"), middle or decoder ("up").
        level: 0 is the full resolution; a resampling block has the level of its lower resolution.
        number: index among the residual (or attention) blocks of its part and level.
    """

    ours: str
    kind: Literal["residual", "attention", "resample"]
    part: Literal["down", "middle", "up"]
    level: int
    number: int


def blocks(network: UNetConfig, image_size: int) -> Iterator[Block]:
    """Yield all blocks of a network for images of this height, in the order of `diffexp.networks.unet`."""
    levels = range(len(network.channel_multipliers))
    attended = [image_size >> level in network.attention_resolutions for level in levels]
    stage = 0
    for level in levels:
        if level > 0:
            yield Block(f"down.{stage}.0", "resample", "down", level, 0)
            stage += 1
        for number in range(network.num_res_blocks):
            yield Block(f"down.{stage}.0", "residual", "down", level, number)
            if attended[level]:
                yield Block(f"down.{stage}.1", "attention", "down", level, number)
            stage += 1
    yield Block("middle.0", "residual", "middle", levels[-1], 0)
    yield Block("middle.1", "attention", "middle", levels[-1], 0)
    yield Block("middle.2", "residual", "middle", levels[-1], 1)
    stage = 0
    for level in reversed(levels):
        for number in range(network.num_res_blocks + 1):
            yield Block(f"up.{stage}.0", "residual", "up", level, number)
            if attended[level]:
                yield Block(f"up.{stage}.1", "attention", "up", level, number)
            stage += 1
        if level > 0:
            yield Block(f"up.{stage}.0", "resample", "up", level, 0)
            stage += 1


@dataclass(frozen=True)
class Names:
    """Another library's names of this network's parts.

    Attributes:
        block: maps a block to its name.
        top: names outside of blocks, by our name.
        residual: names inside a residual block, by our name.
        norm, query_key_value, out: names inside an attention block, which has three layers where ours has one.
        flat: whether its attention layers are linear, of shape (c, c), and not convolutions, of shape (c, c, 1, 1).
    """

    block: Callable[[Block], str]
    top: dict[str, str]
    residual: dict[str, str]
    norm: str
    query_key_value: tuple[str, str, str]
    out: str
    flat: bool


def to_ours(theirs: dict[str, Tensor], names: Names, network: UNetConfig, image_size: int) -> dict[str, Tensor]:
    """Rename another library's tensors to our names.

    Raises:
        KeyError: if a tensor is missing; the argument is its name.
        ValueError: if tensors have no place in our network.
    """
    left = dict(theirs)
    ours: dict[str, Tensor] = {}

    def take(name: str) -> Tensor:
        return left.pop(name).float()

    for our, their, fused in _pairs(names, network, image_size, lambda their: f"{their}.weight" in theirs):
        for kind in ("weight", "bias"):
            tensor = torch.cat([take(f"{each}.{kind}") for each in their])
            ours[f"{NETWORK}{our}.{kind}"] = tensor[:, :, None, None] if fused and tensor.ndim == 2 else tensor
    if left:
        raise ValueError(f"no place for {', '.join(list(left)[:3])}{' …' if len(left) > 3 else ''}")
    return ours


def to_theirs(ours: dict[str, Tensor], names: Names, network: UNetConfig, image_size: int) -> dict[str, Tensor]:
    """Rename our tensors to another library's names."""
    theirs: dict[str, Tensor] = {}
    there = {name.removeprefix(NETWORK).rpartition(".")[0] for name in ours}
    pairs = _pairs(names, network, image_size, lambda _: True)
    for our, their, fused in pairs:
        if our not in there:  # no shortcut in a block that keeps its width
            continue
        for kind in ("weight", "bias"):
            tensor = ours[f"{NETWORK}{our}.{kind}"]
            tensor = tensor.flatten(1) if fused and names.flat and kind == "weight" else tensor
            for each, part in zip(their, tensor.chunk(len(their)), strict=True):
                theirs[f"{each}.{kind}"] = part.contiguous()
    return theirs


def _pairs(
    names: Names, network: UNetConfig, image_size: int, has: Callable[[str], bool]
) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """Yield (our layer, their layer or their three layers, whether it is an attention layer) for all layers."""
    for our, their in names.top.items():
        yield our, (their,), False
    for block in blocks(network, image_size):
        name = names.block(block)
        if block.kind == "resample":
            yield f"{block.ours}.conv", (f"{name}.conv",), False
        elif block.kind == "residual":
            for our, their in names.residual.items():
                if our != "shortcut" or has(f"{name}.{their}"):
                    yield f"{block.ours}.{our}", (f"{name}.{their}",), False
        else:
            yield f"{block.ours}.norm", (f"{name}.{names.norm}",), False
            query, key, value = names.query_key_value
            yield f"{block.ours}.query_key_value", (f"{name}.{query}", f"{name}.{key}", f"{name}.{value}"), True
            yield f"{block.ours}.out", (f"{name}.{names.out}",), True
