"""The PyTorch checkpoints of DDPM and DDIM: the converted ones of Ho et al. 2020, and those that DDIM's code saves.

Both name the parts alike: temb.dense.0, down.0.block.0.conv1, mid.attn_1, up.3.upsample.conv, …. They hold no config:
the architecture is read off the shapes; attention is at 16 pixels, and the number of groups 32, in all of them.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffexp.convert.unet_names import Block, Names
from diffexp.errors import UserError


def _block(block: Block) -> str:
    if block.part == "middle":
        return {"residual": f"mid.block_{block.number + 1}", "attention": "mid.attn_1"}[block.kind]
    if block.kind == "resample":
        # down: it ends the level above
        return f"down.{block.level - 1}.downsample" if block.part == "down" else f"up.{block.level}.upsample"
    kind = {"residual": "block", "attention": "attn"}[block.kind]
    return f"{block.part}.{block.level}.{kind}.{block.number}"


NAMES = Names(
    block=_block,
    top={
        "time.layers.0": "temb.dense.0",
        "time.layers.2": "temb.dense.1",
        **{name: name for name in ("conv_in", "norm_out", "conv_out")},
    },
    residual={
        **{name: name for name in ("norm1", "conv1", "norm2", "conv2")},
        "time": "temb_proj",
        "shortcut": "nin_shortcut",
    },
    norm="norm",
    query_key_value=("q", "k", "v"),
    out="proj_out",
    flat=False,
)


# What both authors' codes train on.
PROCESS: dict[str, Any] = {"timesteps": 1000, "schedule": {"name": "linear"}, "prediction": "epsilon"}
_ATTENDED = 16  # height of the feature maps that get attention in all their configs


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by their names; of one of DDIM's code, the averaged ones where it has them.

    Raises:
        UserError: if it is something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch have many ways to say so
        raise UserError(f"{path}: cannot be read as a PyTorch checkpoint: {error}") from error
    if isinstance(content, list) and content:  # model, optimiser, epoch, step and, if it was averaged, that
        content = content[4] if len(content) > 4 else content[0]
    if not isinstance(content, dict) or not all(isinstance(each, Tensor) for each in content.values()):
        raise UserError(f"{path}: holds no weights of the DDPM or DDIM authors' networks")
    tensors = {name.removeprefix("module."): tensor for name, tensor in content.items()}
    if "temb.dense.0.weight" not in tensors or "conv_in.weight" not in tensors:
        raise UserError(f"{path}: is not of the DDPM or DDIM authors' networks: it has no temb.dense.0 or conv_in")
    return tensors


def image_size(tensors: dict[str, Tensor]) -> int | None:
    """The images' height for which the level with attention is 16 pixels high; None without one such level."""
    attended = {int(level) for level in _all(r"down\.(\d+)\.attn", tensors)}
    return _ATTENDED << attended.pop() if len(attended) == 1 else None


def network(tensors: dict[str, Tensor], image_size: int) -> dict[str, Any]:
    """The keys of our network, from the tensors' shapes, for images of that height."""
    base = tensors["conv_in.weight"].shape[0]
    levels = 1 + max(int(level) for level in _all(r"down\.(\d+)\.block", tensors))
    widths = [tensors[f"down.{level}.block.0.conv1.weight"].shape[0] for level in range(levels)]
    blocks = 1 + max(int(number) for number in _all(r"down\.0\.block\.(\d+)", tensors))
    attended = sorted({int(level) for level in _all(r"down\.(\d+)\.attn", tensors)})
    return {
        "name": "unet",
        "base_channels": base,
        "channel_multipliers": [width // base for width in widths],
        "num_res_blocks": blocks,
        "attention_resolutions": [image_size >> level for level in attended],
        "norm_num_groups": 32,
    }


def _all(pattern: str, tensors: dict[str, Tensor]) -> list[str]:
    return [match[1] for match in (re.match(pattern, name) for name in tensors) if match]
