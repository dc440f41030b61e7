"""Former names of config keys and metrics in diffexp 0.1: an error in user input, translated in stored files."""

from typing import Any

from diffexp.config.yaml_text import Place

# Old name → new name of each key, by its section. "sampler" denotes a sampler under any key, "" a command's request.
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


# Old name → new name of the metrics in stored scores.
RENAMED_SCORES = {"nearest": "nn_distance_ratio", "copies": "memorized_fraction", "fd_floor": "expected_fd"}


def current_metric_name(name: str) -> str:
    """Return the new name of a logged metric: ``score/ddim-ema/expected_fd_digits_v1_500``. Most are unchanged."""
    if name == "train/left_out":
        return "train/skipped"
    head, slash, last = name.rpartition("/")
    for old, new in RENAMED_SCORES.items():
        if head.startswith("score/") and last.startswith(f"{old}_"):
            return f"{head}{slash}{new}{last.removeprefix(old)}"
    return name


def current_name(path: Place) -> str | None:
    """Return the new name of the key at a path, given as its parts; None if it was not renamed."""
    parent = path[-2] if len(path) > 1 else ""
    section = "sampler" if len(path) > 2 and path[-3] == "samplers" else str(parent)
    return RENAMED.get(section, {}).get(str(path[-1]))


def with_current_names(values: dict[str, Any], path: Place = ()) -> dict[str, Any]:
    """Return nested values with the new name of every key. If both names are present, the new one wins."""
    renamed = {}
    for key, value in values.items():
        name = current_name((*path, key)) or key
        if name == key or name not in values:
            renamed[name] = with_current_names(value, (*path, key)) if isinstance(value, dict) else value
    return renamed
