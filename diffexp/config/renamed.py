"""Names of diffexp 0.1: of config keys, an error in what people write, and translated in what diffexp has stored."""

from typing import Any

from diffexp.config.yaml_text import Place

# By the section that holds the key, the old name and the new one. "sampler" stands for a sampler under any key, "" for
# the request of a command.
RENAMED: dict[str, dict[str, str]] = {
    "training": {
        "accumulate": "accumulate_grad_batches",
        "gradient_clip": "gradient_clip_val",
        "log_every": "log_every_n_steps",
        "nodes": "num_nodes",
        "steps": "max_steps",
    },
    "data": {"broken": "on_decode_error", "flip": "random_flip", "workers": "num_workers"},
    "model": {"label_dropout": "class_dropout_prob", "timesteps_drawn": "timestep_sampling"},
    "network": {
        "blocks_per_level": "num_res_blocks",
        "groups": "norm_num_groups",
        "recompute": "gradient_checkpointing",
    },
    "sampler": {
        "clip": "clip_sample",
        "clip_quantile": "dynamic_thresholding_ratio",
        "guidance": "guidance_scale",
    },
    "score": {"limit_seconds": "max_seconds", "limit_share": "max_time_fraction"},
    "": {"blocks": "repeats"},
}


# Metrics of a set of images, as stored scores name them.
RENAMED_SCORES = {"nearest": "nn_distance_ratio", "copies": "memorized_fraction", "fd_floor": "expected_fd"}


def current_metric_name(name: str) -> str:
    """The new name of a logged metric, as ``score/ddim-ema/expected_fd_digits_v1_500``; most have kept theirs."""
    if name == "train/left_out":
        return "train/skipped"
    head, slash, last = name.rpartition("/")
    for old, new in RENAMED_SCORES.items():
        if head.startswith("score/") and last.startswith(f"{old}_"):
            return f"{head}{slash}{new}{last.removeprefix(old)}"
    return name


def current_name(path: Place) -> str | None:
    """The new name of the key at a path, given as its parts; None if it has not had another one."""
    parent = path[-2] if len(path) > 1 else ""
    section = "sampler" if len(path) > 2 and path[-3] == "samplers" else str(parent)
    return RENAMED.get(section, {}).get(str(path[-1]))


def with_current_names(values: dict[str, Any], path: Place = ()) -> dict[str, Any]:
    """Nested values with the new name of every key; where a new one is there as well, it counts."""
    renamed = {}
    for key, value in values.items():
        name = current_name((*path, key)) or key
        if name == key or name not in values:
            renamed[name] = with_current_names(value, (*path, key)) if isinstance(value, dict) else value
    return renamed
