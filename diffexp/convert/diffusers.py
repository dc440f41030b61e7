"""Export to diffusers: its UNet2DModel in the form of Ho et al. 2020, and the folders of its pipelines.

model_index.json    scheduler/scheduler_config.json    unet/config.json    unet/diffusion_pytorch_model.safetensors
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from diffexp.config.merge import as_dict
from diffexp.config.schemas.models.diffusion import DiffusionConfig
from diffexp.config.schemas.networks import UNetConfig
from diffexp.config.schemas.schedules import (
    SCHEDULES,
    CosineScheduleConfig,
    LinearScheduleConfig,
    ScaledLinearScheduleConfig,
    ScheduleConfig,
)
from diffexp.convert.unet_names import Block, Names, to_theirs
from diffexp.errors import UserError
from diffexp.system.files import atomic_write, atomic_write_text

WEIGHTS = "diffusion_pytorch_model.safetensors"
OURS = "diffexp.json"  # keys that a scheduler's config cannot express


def _names(levels: int) -> Names:
    def block(block: Block) -> str:
        if block.part == "middle":
            return f"mid_block.{'resnets' if block.kind == 'residual' else 'attentions'}.{block.number}"
        if block.kind == "resample":
            # down: the last block of the level above
            down = f"down_blocks.{block.level - 1}.downsamplers.0"
            return down if block.part == "down" else f"up_blocks.{levels - 1 - block.level}.upsamplers.0"
        number = block.level if block.part == "down" else levels - 1 - block.level
        kind = "resnets" if block.kind == "residual" else "attentions"
        return f"{block.part}_blocks.{number}.{kind}.{block.number}"

    return Names(
        block=block,
        top={
            "time.layers.0": "time_embedding.linear_1",
            "time.layers.2": "time_embedding.linear_2",
            "conv_in": "conv_in",
            "norm_out": "conv_norm_out",
            "conv_out": "conv_out",
        },
        residual={
            **{name: name for name in ("norm1", "conv1", "norm2", "conv2")},
            "time": "time_emb_proj",
            "shortcut": "conv_shortcut",
        },
        norm="group_norm",
        query_key_value=("to_q", "to_k", "to_v"),
        out="to_out.0",
        flat=True,
    )


def names(network: UNetConfig) -> Names:
    """Return diffusers' names of a network's parts."""
    return _names(len(network.channel_multipliers))


# Settings of UNet2DModel: the value that our network requires, and the default of a config without the key.
BUILT_IN: dict[str, tuple[Any, Any]] = {
    "center_input_sample": (False, False),
    "time_embedding_type": ("positional", "positional"),
    "time_embedding_dim": (None, None),
    "freq_shift": (1, 0),
    "flip_sin_to_cos": (False, True),
    "mid_block_type": ("UNetMidBlock2D", "UNetMidBlock2D"),
    "mid_block_scale_factor": (1, 1),
    "downsample_padding": (0, 1),
    "downsample_type": ("conv", "conv"),
    "upsample_type": ("conv", "conv"),
    "act_fn": ("silu", "silu"),
    "attn_norm_num_groups": (None, None),
    "norm_eps": (1e-6, 1e-5),
    "resnet_time_scale_shift": ("default", "default"),
    "add_attention": (True, True),
    "class_embed_type": (None, None),
    "num_class_embeds": (None, None),
}

# Our prediction by diffusers' name.
PREDICTIONS = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v"}


# --- writing

# Other schedulers of diffusers that sample an export correctly, also with zero terminal SNR.
SCHEDULERS = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler")


def how_to_load(model: DiffusionConfig, out: Path) -> str:
    """Return a sentence on how to load an export."""
    pipeline = f'diffusers.DDPMPipeline.from_pretrained("{out}")'
    if model.loss != "simple":
        return f"load it with {pipeline}; diffusers' other pipelines and schedulers do not support a learned variance"
    return f"load it with {pipeline}, or DDIMPipeline; {', '.join(SCHEDULERS)} also fit"


def write(model: DiffusionConfig, image_size: int, channels: int, weights: dict[str, Tensor], out: Path) -> None:
    """Write a folder that `DDPMPipeline.from_pretrained` loads, with diffexp.json for a later import.

    Args:
        model: a model with diffexp's U-Net and a prediction that diffusers supports.
        image_size: height and width of the images in pixels.
        channels: channels of the images.
        weights: weights by diffexp's names.
        out: the folder. model_index.json, which makes it a pipeline, is written last.

    Raises:
        UserError: if diffusers does not support the model.
        OSError: if it cannot be written.
    """
    network = model.network
    if not isinstance(network, UNetConfig):
        raise UserError(f"model.network: expected unet, which diffusers supports, got {network.name}.")
    if model.prediction not in PREDICTIONS.values():
        raise UserError(f"model.prediction: expected {', '.join(PREDICTIONS.values())}, got {model.prediction}.")
    if model.classes is not None:
        raise UserError("model.classes: expected null, as diffusers' DDPMPipeline and DDIMPipeline use no labels.")
    tensors = to_theirs(weights, names(network), network, image_size)
    learned = model.loss != "simple"
    unet = {"_class_name": "UNet2DModel", **_unet_config(network, image_size, channels)}
    unet["out_channels"] = 2 * channels if learned else channels
    scheduler = {
        "_class_name": "DDPMScheduler",
        **scheduler_config(model.schedule, model.timesteps, model.prediction, model.loss),
    }
    ours = {key: getattr(model, key) for key in ("timesteps", "prediction", "loss")}
    index = {
        "_class_name": "DDPMPipeline",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    with atomic_write(out / "unet" / WEIGHTS) as file:
        file.write(save(tensors, {"format": "pt"}))
    for name, content in {
        "unet/config.json": unet,
        "scheduler/scheduler_config.json": scheduler,
        OURS: {"model": {**ours, "schedule": as_dict(model.schedule)}},
        "model_index.json": index,
    }.items():
        atomic_write_text(out / name, json.dumps({"_diffusers_version": "0.30.0", **content}, indent=2) + "\n")


def _unet_config(network: UNetConfig, image_size: int, channels: int) -> dict[str, Any]:
    attended = [
        image_size >> level in network.attention_resolutions for level in range(len(network.channel_multipliers))
    ]
    return {
        **{key: needed for key, (needed, _) in BUILT_IN.items()},
        "sample_size": image_size,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": [network.base_channels * each for each in network.channel_multipliers],
        "layers_per_block": network.num_res_blocks,
        "down_block_types": ["AttnDownBlock2D" if each else "DownBlock2D" for each in attended],
        "up_block_types": ["AttnUpBlock2D" if each else "UpBlock2D" for each in reversed(attended)],
        "attention_head_dim": None,
        "norm_num_groups": network.norm_num_groups,
        "dropout": network.dropout,
    }


def scheduler_config(ours: ScheduleConfig, timesteps: int, prediction: str, loss: str) -> dict[str, Any]:
    """Return the config of diffusers' scheduler.

    A zero terminal SNR is expressed by `rescale_betas_zero_snr`, because most schedulers give NaN for a last β of 1.
    """
    return {
        "num_train_timesteps": timesteps,
        **_betas(ours, timesteps),
        "rescale_betas_zero_snr": ours.zero_terminal_snr,
        "prediction_type": {ours: theirs for theirs, ours in PREDICTIONS.items()}[prediction],
        "variance_type": "fixed_large" if loss == "simple" else "learned_range",
        "clip_sample": True,
        "timestep_spacing": "trailing",  # diffusers has no arctan; trailing also starts at T-1
    }


def _betas(ours: ScheduleConfig, timesteps: int) -> dict[str, Any]:
    """Return our β in a scheduler's config: by a name that all schedulers know, else as a list of numbers."""
    for kind, name in ((LinearScheduleConfig, "linear"), (ScaledLinearScheduleConfig, "scaled_linear")):
        if isinstance(ours, kind) and ours.rescale == "none":
            return {"beta_schedule": name, "beta_start": ours.beta_start, "beta_end": ours.beta_end}
    if isinstance(ours, CosineScheduleConfig) and (ours.s, ours.max_beta) == (
        CosineScheduleConfig().s,
        CosineScheduleConfig().max_beta,
    ):
        return {"beta_schedule": "squaredcos_cap_v2"}
    return {"trained_betas": SCHEDULES.build(ours, timesteps).tolist()}
