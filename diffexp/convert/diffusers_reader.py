"""Reading the folders of diffusers' pipelines and of its UNet2DModel."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from diffexp.config.schemas.schedules import SCHEDULES, ScheduleConfig
from diffexp.convert.diffusers import BUILT_IN, OURS, PREDICTIONS, WEIGHTS, scheduler_config
from diffexp.errors import UserError

# What older releases called these.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


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
        process, ours = _json(scheduler), path / OURS
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
        for key, (needed, default) in BUILT_IN.items()
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
        wrong.append(f"trained_betas are given, which have no name here without {OURS}")
    if kind not in _SCHEDULES:
        wrong.append(f"beta_schedule is {kind!r}, known are {', '.join(_SCHEDULES)}")
    if prediction not in PREDICTIONS:
        wrong.append(f"prediction_type is {prediction!r}, known are {', '.join(PREDICTIONS)}")
    if wrong:
        raise UserError(f"{source}: is another schedule than ours:\n  " + "\n  ".join(wrong))
    zero = bool(config.get("rescale_betas_zero_snr", False))
    schedule: dict[str, Any] = {"name": _SCHEDULES[kind], "zero_terminal_snr": zero}
    if kind != "squaredcos_cap_v2":
        start, end = _OTHER_BETA_RANGES.get(config["_class_name"], _BETA_RANGE)
        schedule |= {"beta_start": config.get("beta_start", start), "beta_end": config.get("beta_end", end)}
    timesteps = config.get("num_train_timesteps", 1000)
    return {"timesteps": timesteps, "schedule": schedule, "prediction": PREDICTIONS[prediction]}


def _exported(ours: dict[str, Any], config: dict[str, Any], source: Path) -> dict[str, Any]:
    """The keys of our model in the file that `write` adds, which must say what the scheduler's config does.

    Raises:
        UserError: if they disagree, as where one of them was changed.
    """
    try:
        model = {key: ours["model"][key] for key in ("timesteps", "schedule", "prediction", "loss")}
        schedule = SCHEDULES.schema(model["schedule"]["name"])(**model["schedule"])
        assert isinstance(schedule, ScheduleConfig)
        expected = scheduler_config(schedule, model["timesteps"], model["prediction"], model["loss"])
    except (KeyError, TypeError, ValueError, AssertionError, UserError) as error:
        raise UserError(f"{source.parents[1] / OURS}: is damaged: {error}") from error
    wrong = _process_problems(config)
    if wrong:
        raise UserError(f"{source}: is another process than ours:\n  " + "\n  ".join(wrong))
    differing = [key for key in expected if not _agree(expected[key], config.get(key))]
    if differing:
        raise UserError(f"{source}: {', '.join(differing)} differ from what {OURS} says of the model. Remove {OURS}")
    return model


def _agree(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and torch.allclose(torch.tensor(one), torch.tensor(other), rtol=1e-6, atol=0)
    return bool(one == other)


def _tensors(folder: Path) -> dict[str, Tensor]:
    file = folder / WEIGHTS
    try:
        if file.is_file():
            tensors = load_file(file)
        else:
            file = folder / "diffusion_pytorch_model.bin"
            tensors = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{folder}: has no {WEIGHTS} and no diffusion_pytorch_model.bin") from None
    except Exception as error:  # safetensors, pickle, zip and torch have many ways to say so
        raise UserError(f"{file}: cannot be read: {error}") from error
    return {_current(name): tensor for name, tensor in tensors.items()}


def _current(name: str) -> str:
    module, _, kind = name.rpartition(".")
    parent, _, layer = module.rpartition(".")
    return f"{parent}.{_OLD_NAMES[layer]}.{kind}" if layer in _OLD_NAMES else name
