"""The PyTorch checkpoints of DDPM and DDIM: the converted ones of Ho et al. 2020, and those of DDIM's code.

Both use the same names: temb.dense.0, down.0.block.0.conv1, mid.attn_1, up.3.upsample.conv, …. They contain no config,
so the architecture is inferred from the shapes. All of them have attention at 16 pixels and 32 groups.
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
        # down: the last block of the level above
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


# The diffusion process of both codes.
PROCESS: dict[str, Any] = {"timesteps": 1000, "schedule": {"name": "linear"}, "prediction": "epsilon"}
_ATTENDED = 16  # height of the feature maps with attention in all their configs


def read(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint by name; the averaged ones of a checkpoint of DDIM's code, if it has them.

    Raises:
        UserError: if it is not one of these checkpoints.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch raise many exceptions
        raise UserError(f"{path}: cannot be read as a PyTorch checkpoint: {error}") from error
    if isinstance(content, list) and content:  # model, optimiser, epoch, step and, optionally, the average
        content = content[4] if len(content) > 4 else content[0]
    if not isinstance(content, dict) or not all(isinstance(each, Tensor) for each in content.values()):
        raise UserError(f"{path}: expected tensors by name, as in DDPM and DDIM checkpoints, got another content.")
    tensors = {name.removeprefix("module."): tensor for name, tensor in content.items()}
    if "temb.dense.0.weight" not in tensors or "conv_in.weight" not in tensors:
        raise UserError(f"{path}: expected a DDPM or DDIM checkpoint, got one without temb.dense.0 or conv_in.")
    return tensors


def image_size(tensors: dict[str, Tensor]) -> int | None:
    """Return the image height for which the level with attention is 16 pixels high; None without exactly one level."""
    attended = {int(level) for level in _all(r"down\.(\d+)\.attn", tensors)}
    return _ATTENDED << attended.pop() if len(attended) == 1 else None


def network(tensors: dict[str, Tensor], image_size: int) -> dict[str, Any]:
    """Return the keys of our network, inferred from the tensors' shapes, for images of this height."""
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
