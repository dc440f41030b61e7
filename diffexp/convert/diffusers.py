"""diffusers' UNet2DModel in the form of Ho et al. 2020, and its pipelines' folders.

model_index.json    scheduler/scheduler_config.json    unet/config.json    unet/diffusion_pytorch_model.safetensors
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
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

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_OURS = "diffexp.json"  # what a scheduler's config cannot say


def _names(levels: int) -> Names:
    def block(block: Block) -> str:
        if block.part == "middle":
            return f"mid_block.{'resnets' if block.kind == 'residual' else 'attentions'}.{block.number}"
        if block.kind == "resample":
            # down: it ends the level above
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
    """Their names of a network's parts."""
    return _names(len(network.channel_multipliers))


# Settings of UNet2DModel that our network has built in, and their defaults where a config leaves them out.
_BUILT_IN: dict[str, tuple[Any, Any]] = {
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
# What older releases called these.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


# --- reading


def is_diffusers(path: Path) -> bool:
    """Whether it is a folder of a pipeline or of a model."""
    return any((path / name).is_file() for name in ("model_index.json", "config.json"))


def read(path: Path) -> tuple[dict[str, Any], int, int, dict[str, Tensor]]:
    """(the keys of our model, image_size, channels, their tensors) of a pipeline's or a UNet2DModel's folder.

    A folder without a scheduler leaves the schedule and the prediction out of the keys.

    Raises:
        UserError: if it is damaged, or our network or process is not that one.
    """
    unet, scheduler = _part(path, "unet"), _part(path, "scheduler") / "scheduler_config.json"
    index = path / "model_index.json"
    if index.is_file():
        _check_pipeline(_json(index), index)
    config = _json(unet / "config.json")
    model: dict[str, Any] = {"name": "diffusion", "network": _network(config, unet / "config.json")}
    if model["network"].pop("learned_variance"):
        model["loss"] = "hybrid"
    if index.is_file() or scheduler.is_file():
        process, ours = _json(scheduler), path / _OURS
        model |= _exported(_json(ours), process, scheduler) if ours.is_file() else _schedule(process, scheduler)
    return model, int(config["sample_size"]), int(config["in_channels"]), _tensors(unet)


def _part(path: Path, name: str) -> Path:
    """Where diffusers looks for a part of a pipeline: in the folder of its name, without one in the pipeline's own."""
    folder = path / name
    return folder if folder.is_dir() else path


def _check_pipeline(index: dict[str, Any], source: Path) -> None:
    """Refuse a pipeline of other parts than a network on pixels and a scheduler.

    Raises:
        UserError: naming them.
    """
    parts = {name: each[1] for name, each in index.items() if isinstance(each, list) and len(each) == 2 and each[1]}
    wrong = [f"{name} is {kind!r}, which ours has not" for name, kind in parts.items() if name not in _PARTS]
    if parts.get("unet") != "UNet2DModel":
        wrong.append(f"unet is {parts.get('unet')!r}, ours 'UNet2DModel'")
    wrong += _scheduler_problems("scheduler", parts.get("scheduler"))
    if wrong:
        raise UserError(f"{source}: is another pipeline than a UNet2DModel on pixels:\n  " + "\n  ".join(wrong))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: is damaged: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: is damaged: it holds no mapping")
    return content


def _network(config: dict[str, Any], source: Path) -> dict[str, Any]:
    wrong = [
        f"{key} is {config.get(key, default)!r}, ours {needed!r}"
        for key, (needed, default) in _BUILT_IN.items()
        if config.get(key, default) != needed
    ]
    widths: list[int] = list(config.get("block_out_channels") or [0])
    size = config.get("sample_size")
    kinds = {"DownBlock2D": False, "AttnDownBlock2D": True, "UpBlock2D": False, "AttnUpBlock2D": True}
    down, up = ([kinds.get(each) for each in config.get(f"{way}_block_types", [None])] for way in ("down", "up"))
    if not isinstance(size, int):
        wrong.append(f"sample_size is {size!r}, ours a number")
        size = 0
    if not widths[0] or any(width % widths[0] for width in widths):
        wrong.append(f"block_out_channels is {widths}, ours multiples of the first")
    channels, out_channels = config.get("in_channels"), config.get("out_channels")
    learned = isinstance(channels, int) and out_channels == 2 * channels
    if channels != out_channels and not learned:
        wrong.append("out_channels is not in_channels or, with a learned variance, twice that, as ours")
    if config.get("_class_name") != "UNet2DModel":
        wrong.append(f"_class_name is {config.get('_class_name')!r}, ours 'UNet2DModel'")
    if None in down or down != up[::-1]:
        wrong.append("the blocks are not (Attn)DownBlock2D and the same (Attn)UpBlock2D on the way up, as ours")
    if config.get("attention_head_dim", 8) is not None:
        wrong.append(f"attention_head_dim is {config.get('attention_head_dim', 8)!r}, ours None: one head")
    if wrong:
        raise UserError(f"{source}: is another network than that of Ho et al. 2020:\n  " + "\n  ".join(wrong))
    return {
        "name": "unet",
        "base_channels": widths[0],
        "channel_multipliers": [width // widths[0] for width in widths],
        "num_res_blocks": config.get("layers_per_block", 2),
        "attention_resolutions": [size >> level for level, attends in enumerate(down) if attends],
        "dropout": config.get("dropout", 0.0),
        "norm_num_groups": config.get("norm_num_groups", 32),
        "learned_variance": learned,
    }


_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine", "sigmoid": "sigmoid"}
_PREDICTIONS = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v"}
# Those that sample the discrete variance-preserving process that ours are trained on, from β_1 … β_T.
_SCHEDULERS = (
    *("DDPMScheduler", "DDPMParallelScheduler", "DDIMScheduler", "DDIMParallelScheduler", "DDIMInverseScheduler"),
    *("PNDMScheduler", "DPMSolverMultistepScheduler", "DPMSolverMultistepInverseScheduler", "DPMSolverSDEScheduler"),
    *("DPMSolverSinglestepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler", "SASolverScheduler"),
    *("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler"),
    *("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"),
)
# Their defaults of (beta_start, beta_end), where a config leaves them out.
_BETA_RANGE = (1e-4, 0.02)
_OTHER_BETA_RANGES = dict.fromkeys(
    ("HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler"),
    (0.00085, 0.012),
)
_PARTS = ("unet", "scheduler")  # of a pipeline that ours can be


def _scheduler_problems(key: str, kind: Any) -> list[str]:
    if kind in _SCHEDULERS:
        return []
    known = ", ".join(_SCHEDULERS)
    return [
        f"{key} is {kind!r}, which is not known to sample a discrete variance-preserving process; known are {known}"
    ]


def _process_problems(config: dict[str, Any]) -> list[str]:
    """What in a scheduler's config means another process, or another use of the network, than ours."""
    wrong = _scheduler_problems("_class_name", config.get("_class_name"))
    if config.get("use_flow_sigmas"):
        wrong.append("use_flow_sigmas is True, which is of flow matching")
    if config.get("timestep_type") == "continuous":
        wrong.append("timestep_type is 'continuous': the network gets no timesteps but 0.25 log σ (EDM)")
    if config.get("variance_type") == "learned":
        wrong.append("variance_type is 'learned', ours is learned_range: the network gives no log-variance")
    return wrong


def _schedule(config: dict[str, Any], source: Path) -> dict[str, Any]:
    """The keys of our model that a scheduler's config tells.

    Raises:
        UserError: for a scheduler of another process, as of flow matching, or a schedule without a name.
    """
    kind, prediction = config.get("beta_schedule", "linear"), config.get("prediction_type", "epsilon")
    wrong = _process_problems(config)
    if config.get("trained_betas") is not None:
        wrong.append(f"trained_betas are given, which have no name here without {_OURS}")
    if kind not in _SCHEDULES:
        wrong.append(f"beta_schedule is {kind!r}, known are {', '.join(_SCHEDULES)}")
    if prediction not in _PREDICTIONS:
        wrong.append(f"prediction_type is {prediction!r}, known are {', '.join(_PREDICTIONS)}")
    if wrong:
        raise UserError(f"{source}: is another schedule than ours:\n  " + "\n  ".join(wrong))
    zero = bool(config.get("rescale_betas_zero_snr", False))
    schedule: dict[str, Any] = {"name": _SCHEDULES[kind], "zero_terminal_snr": zero}
    if kind != "squaredcos_cap_v2":
        start, end = _OTHER_BETA_RANGES.get(config["_class_name"], _BETA_RANGE)
        schedule |= {"beta_start": config.get("beta_start", start), "beta_end": config.get("beta_end", end)}
    timesteps = config.get("num_train_timesteps", 1000)
    return {"timesteps": timesteps, "schedule": schedule, "prediction": _PREDICTIONS[prediction]}


def _exported(ours: dict[str, Any], config: dict[str, Any], source: Path) -> dict[str, Any]:
    """The keys of our model in the file that `write` adds, which must say what the scheduler's config does.

    Raises:
        UserError: if they disagree, as where one of them was changed.
    """
    try:
        model = {key: ours["model"][key] for key in ("timesteps", "schedule", "prediction", "loss")}
        schedule = SCHEDULES.schema(model["schedule"]["name"])(**model["schedule"])
        assert isinstance(schedule, ScheduleConfig)
        expected = _scheduler(schedule, model["timesteps"], model["prediction"], model["loss"])
    except (KeyError, TypeError, ValueError, AssertionError, UserError) as error:
        raise UserError(f"{source.parents[1] / _OURS}: is damaged: {error}") from error
    wrong = _process_problems(config)
    if wrong:
        raise UserError(f"{source}: is another process than ours:\n  " + "\n  ".join(wrong))
    differing = [key for key in expected if not _agree(expected[key], config.get(key))]
    if differing:
        raise UserError(f"{source}: {', '.join(differing)} differ from what {_OURS} says of the model. Remove {_OURS}")
    return model


def _agree(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and torch.allclose(torch.tensor(one), torch.tensor(other), rtol=1e-6, atol=0)
    return bool(one == other)


def _tensors(folder: Path) -> dict[str, Tensor]:
    file = folder / _WEIGHTS
    try:
        if file.is_file():
            tensors = load_file(file)
        else:
            file = folder / "diffusion_pytorch_model.bin"
            tensors = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{folder}: has no {_WEIGHTS} and no diffusion_pytorch_model.bin") from None
    except Exception as error:  # safetensors, pickle, zip and torch have many ways to say so
        raise UserError(f"{file}: cannot be read: {error}") from error
    return {_current(name): tensor for name, tensor in tensors.items()}


def _current(name: str) -> str:
    module, _, kind = name.rpartition(".")
    parent, _, layer = module.rpartition(".")
    return f"{parent}.{_OLD_NAMES[layer]}.{kind}" if layer in _OLD_NAMES else name


# --- writing

# Their other schedulers that sample an export as its model was trained, also where its terminal SNR is zero.
SCHEDULERS = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler")


def how_to_load(model: DiffusionConfig, out: Path) -> str:
    """What an export can be used with."""
    pipeline = f'diffusers.DDPMPipeline.from_pretrained("{out}")'
    if model.loss != "simple":
        return f"load it with {pipeline}; diffusers' other pipelines and schedulers take no learned variance"
    return f"load it with {pipeline}, or DDIMPipeline; {', '.join(SCHEDULERS)} fit, too"


def write(model: DiffusionConfig, image_size: int, channels: int, weights: dict[str, Tensor], out: Path) -> None:
    """Write a pipeline's folder, which `DDPMPipeline.from_pretrained` loads, and diffexp.json, for importing it again.

    Args:
        model: its network must be a U-Net of ours and its prediction one that diffusers knows.
        image_size: height and width.
        channels: of the images.
        weights: ours, by name.
        out: the folder; model_index.json, without which it is none, is written last.

    Raises:
        UserError: if diffusers has no such model.
        OSError: if it cannot be written.
    """
    network = model.network
    if not isinstance(network, UNetConfig):
        raise UserError(f"model.network: {network.name} is not known to diffusers; only unet is")
    if model.prediction not in _PREDICTIONS.values():
        raise UserError(f"model.prediction: {model.prediction} is not known to diffusers")
    if model.classes is not None:
        raise UserError("model.classes: diffusers' DDPMPipeline and DDIMPipeline give the network no labels")
    tensors = to_theirs(weights, names(network), network, image_size)
    learned = model.loss != "simple"
    unet = {"_class_name": "UNet2DModel", **_unet_config(network, image_size, channels)}
    unet["out_channels"] = 2 * channels if learned else channels
    scheduler = {
        "_class_name": "DDPMScheduler",
        **_scheduler(model.schedule, model.timesteps, model.prediction, model.loss),
    }
    ours = {key: getattr(model, key) for key in ("timesteps", "prediction", "loss")}
    index = {
        "_class_name": "DDPMPipeline",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    with atomic_write(out / "unet" / _WEIGHTS) as file:
        file.write(save(tensors, {"format": "pt"}))
    for name, content in {
        "unet/config.json": unet,
        "scheduler/scheduler_config.json": scheduler,
        _OURS: {"model": {**ours, "schedule": as_dict(model.schedule)}},
        "model_index.json": index,
    }.items():
        atomic_write_text(out / name, json.dumps({"_diffusers_version": "0.30.0", **content}, indent=2) + "\n")


def _unet_config(network: UNetConfig, image_size: int, channels: int) -> dict[str, Any]:
    attended = [
        image_size >> level in network.attention_resolutions for level in range(len(network.channel_multipliers))
    ]
    return {
        **{key: needed for key, (needed, _) in _BUILT_IN.items()},
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


def _scheduler(ours: ScheduleConfig, timesteps: int, prediction: str, loss: str) -> dict[str, Any]:
    """The config of their scheduler.

    A zero terminal SNR is left to `rescale_betas_zero_snr`, as with a last β of 1 most of their schedulers give NaN.
    """
    return {
        "num_train_timesteps": timesteps,
        **_betas(ours, timesteps),
        "rescale_betas_zero_snr": ours.zero_terminal_snr,
        "prediction_type": {ours: theirs for theirs, ours in _PREDICTIONS.items()}[prediction],
        "variance_type": "fixed_large" if loss == "simple" else "learned_range",
        "clip_sample": True,
        "timestep_spacing": "trailing",  # they have no arctan; it starts at T-1, too
    }


def _betas(ours: ScheduleConfig, timesteps: int) -> dict[str, Any]:
    """How a scheduler's config says our β: by a name that all schedulers know, else number by number."""
    for kind, name in ((LinearScheduleConfig, "linear"), (ScaledLinearScheduleConfig, "scaled_linear")):
        if isinstance(ours, kind) and ours.rescale == "none":
            return {"beta_schedule": name, "beta_start": ours.beta_start, "beta_end": ours.beta_end}
    if isinstance(ours, CosineScheduleConfig) and (ours.s, ours.max_beta) == (
        CosineScheduleConfig().s,
        CosineScheduleConfig().max_beta,
    ):
        return {"beta_schedule": "squaredcos_cap_v2"}
    return {"trained_betas": SCHEDULES.build(ours, timesteps).tolist()}
