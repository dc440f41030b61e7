"""Read the folders of diffusers' pipelines and of its UNet2DModel."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from diffexp.config.schemas.schedules import SCHEDULES, ScheduleConfig
from diffexp.convert.diffusers import BUILT_IN, OURS, PREDICTIONS, WEIGHTS, scheduler_config
from diffexp.errors import UserError, file_error

# Names of these layers in older releases.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def is_diffusers(path: Path) -> bool:
    """Whether a folder has a pipeline or a model of diffusers."""
    return any((path / name).is_file() for name in ("model_index.json", "config.json"))


def read(path: Path) -> tuple[dict[str, Any], int, int, dict[str, Tensor]]:
    """Read the (keys of our model, image_size, channels, their tensors) of a pipeline's or a UNet2DModel's folder.

    Without a scheduler, the keys lack the schedule and the prediction.

    Raises:
        UserError: if it is damaged, or diffexp has no such network or process.
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
    """Return the folder in which diffusers looks for a part: that of its name if it exists, else the pipeline's."""
    folder = path / name
    return folder if folder.is_dir() else path


def _check_pipeline(index: dict[str, Any], source: Path) -> None:
    """Check that a pipeline consists of a network on pixels and a scheduler.

    Raises:
        UserError: if it has other parts.
    """
    parts = {name: each[1] for name, each in index.items() if isinstance(each, list) and len(each) == 2 and each[1]}
    wrong = [f"{name}: expected no such part, got {kind!r}." for name, kind in parts.items() if name not in _PARTS]
    if parts.get("unet") != "UNet2DModel":
        wrong.append(f"unet: expected 'UNet2DModel', got {parts.get('unet')!r}.")
    wrong += _scheduler_problems("scheduler", parts.get("scheduler"))
    if wrong:
        raise UserError(f"{source}: expected a pipeline with a UNet2DModel on pixels:\n  " + "\n  ".join(wrong))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise file_error(error, f"{path}: cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"{path}: is damaged: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: is damaged: expected a mapping, got {content!r:.60}.")
    return content


def _network(config: dict[str, Any], source: Path) -> dict[str, Any]:
    wrong = [
        f"{key}: expected {needed!r}, got {config.get(key, default)!r}."
        for key, (needed, default) in BUILT_IN.items()
        if config.get(key, default) != needed
    ]
    widths: list[int] = list(config.get("block_out_channels") or [0])
    size = config.get("sample_size")
    kinds = {"DownBlock2D": False, "AttnDownBlock2D": True, "UpBlock2D": False, "AttnUpBlock2D": True}
    down, up = ([kinds.get(each) for each in config.get(f"{way}_block_types", [None])] for way in ("down", "up"))
    if not isinstance(size, int):
        wrong.append(f"sample_size: expected an integer, got {size!r}.")
        size = 0
    if not widths[0] or any(width % widths[0] for width in widths):
        wrong.append(f"block_out_channels: expected multiples of the first, got {widths}.")
    channels, out_channels = config.get("in_channels"), config.get("out_channels")
    learned = isinstance(channels, int) and out_channels == 2 * channels
    if channels != out_channels and not learned:
        wrong.append(
            f"out_channels: expected in_channels = {channels} or, with a learned variance, twice as many, "
            f"got {out_channels}."
        )
    if config.get("_class_name") != "UNet2DModel":
        wrong.append(f"_class_name: expected 'UNet2DModel', got {config.get('_class_name')!r}.")
    if None in down or down != up[::-1]:
        wrong.append(
            "down_block_types: expected (Attn)DownBlock2D, and (Attn)UpBlock2D in reverse order in up_block_types."
        )
    if config.get("attention_head_dim", 8) is not None:
        wrong.append(f"attention_head_dim: expected None (one head), got {config.get('attention_head_dim', 8)!r}.")
    if wrong:
        raise UserError(f"{source}: expected the network of Ho et al. 2020:\n  " + "\n  ".join(wrong))
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
# Schedulers of the discrete variance-preserving process β_1 … β_T, on which our models are trained.
_SCHEDULERS = (
    *("DDPMScheduler", "DDPMParallelScheduler", "DDIMScheduler", "DDIMParallelScheduler", "DDIMInverseScheduler"),
    *("PNDMScheduler", "DPMSolverMultistepScheduler", "DPMSolverMultistepInverseScheduler", "DPMSolverSDEScheduler"),
    *("DPMSolverSinglestepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler", "SASolverScheduler"),
    *("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler"),
    *("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"),
)
# Their defaults of (beta_start, beta_end).
_BETA_RANGE = (1e-4, 0.02)
_OTHER_BETA_RANGES = dict.fromkeys(
    ("HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler"),
    (0.00085, 0.012),
)
_PARTS = ("unet", "scheduler")  # of a supported pipeline


def _scheduler_problems(key: str, kind: Any) -> list[str]:
    if kind in _SCHEDULERS:
        return []
    return [
        f"{key}: expected a scheduler of the discrete variance-preserving process ({', '.join(_SCHEDULERS)}), "
        f"got {kind!r}."
    ]


def _process_problems(config: dict[str, Any]) -> list[str]:
    """Return the problems of a scheduler's config with another process, or another use of the network."""
    wrong = _scheduler_problems("_class_name", config.get("_class_name"))
    if config.get("use_flow_sigmas"):
        wrong.append("use_flow_sigmas: expected False, got True, which is flow matching.")
    if config.get("timestep_type") == "continuous":
        wrong.append("timestep_type: expected 'discrete', got 'continuous', where the network gets 0.25 log σ (EDM).")
    if config.get("variance_type") == "learned":
        wrong.append("variance_type: expected 'learned_range', got 'learned': our network predicts no log-variance.")
    return wrong


def _schedule(config: dict[str, Any], source: Path) -> dict[str, Any]:
    """Return the keys of our model in a scheduler's config.

    Raises:
        UserError: for a scheduler of another process, such as flow matching, or a schedule without a name.
    """
    kind, prediction = config.get("beta_schedule", "linear"), config.get("prediction_type", "epsilon")
    wrong = _process_problems(config)
    if config.get("trained_betas") is not None:
        wrong.append(f"trained_betas: expected a named schedule without {OURS}, got numbers.")
    if kind not in _SCHEDULES:
        wrong.append(f"beta_schedule: expected one of {', '.join(_SCHEDULES)}, got {kind!r}.")
    if prediction not in PREDICTIONS:
        wrong.append(f"prediction_type: expected one of {', '.join(PREDICTIONS)}, got {prediction!r}.")
    if wrong:
        raise UserError(f"{source}: expected a schedule that diffexp supports:\n  " + "\n  ".join(wrong))
    zero = bool(config.get("rescale_betas_zero_snr", False))
    schedule: dict[str, Any] = {"name": _SCHEDULES[kind], "zero_terminal_snr": zero}
    if kind != "squaredcos_cap_v2":
        start, end = _OTHER_BETA_RANGES.get(config["_class_name"], _BETA_RANGE)
        schedule |= {"beta_start": config.get("beta_start", start), "beta_end": config.get("beta_end", end)}
    timesteps = config.get("num_train_timesteps", 1000)
    return {"timesteps": timesteps, "schedule": schedule, "prediction": PREDICTIONS[prediction]}


def _exported(ours: dict[str, Any], config: dict[str, Any], source: Path) -> dict[str, Any]:
    """Return the keys of our model in the file that `write` adds, which must agree with the scheduler's config.

    Raises:
        UserError: if they disagree, because one of them was changed.
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
        raise UserError(f"{source}: expected a process that diffexp supports:\n  " + "\n  ".join(wrong))
    differing = [key for key in expected if not _agree(expected[key], config.get(key))]
    if differing:
        raise UserError(f"{source}: expected {', '.join(differing)} as in {OURS}, got other values. Remove {OURS}.")
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
        raise UserError(f"{folder}: expected {WEIGHTS} or diffusion_pytorch_model.bin, got neither.") from None
    except Exception as error:  # safetensors, pickle, zip and torch raise many exceptions
        raise UserError(f"{file}: cannot be read: {error}") from error
    return {_current(name): tensor for name, tensor in tensors.items()}


def _current(name: str) -> str:
    module, _, kind = name.rpartition(".")
    parent, _, layer = module.rpartition(".")
    return f"{parent}.{_OLD_NAMES[layer]}.{kind}" if layer in _OLD_NAMES else name
