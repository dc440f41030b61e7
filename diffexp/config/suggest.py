"""Explain an unknown key: the component that it belongs to, the key that was probably meant, or the known keys."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from diffexp.config.registry import Component
from diffexp.config.select import hints_of

_NAME = "NAME"  # in place of the name of a sampler
_MOST = 4  # suggested keys

# Names that other projects give to a key, by the ends of diffexp's keys.
_SYNONYMS = {
    "model.prediction": "prediction_type parameterization parametrization pred_type objective target",
    "model.loss": "loss_type learn_sigma learn_variance learned_variance",
    "model.classes": "num_classes n_classes class_cond conditional",
    "model.class_dropout_prob": "cond_drop_prob label_drop_prob uncond_prob p_uncond drop_prob cfg_dropout",
    "model.schedule.name": "beta_schedule noise_schedule schedule_type schedule",
    "model.schedule.zero_terminal_snr": "rescale_betas_zero_snr zero_snr",
    "model.weighting.gamma": "snr_gamma min_snr_gamma",
    "model.network.base_channels": "model_channels channels dim width hidden_dim base_width ch",
    "model.network.channel_multipliers": "dim_mults ch_mult channel_mult channel_mults block_out_channels",
    "model.network.num_res_blocks": "layers_per_block n_res_blocks blocks",
    "model.network.attention_resolutions": "attn_resolutions attention attn attention_levels",
    "data.name": "dataset dataset_name",
    "data.path": "data_dir dataset_path folder image_dir train_data_dir data_root",
    "data.image_size": "resolution img_size size image_resolution",
    "data.random_flip": "hflip horizontal_flip flip augment",
    "data.num_workers": "workers n_workers dataloader_num_workers",
    "optim.lr": "lr learning_rate train_lr base_lr",
    "optim.warmup_steps": "warmup lr_warmup_steps lr_warmup warmup_iters",
    "optim.decay": "lr_scheduler scheduler lr_schedule lr_decay",
    "training.max_steps": "steps num_steps n_steps iterations n_iters num_iterations total_steps max_train_steps "
    "train_num_steps num_train_steps epochs num_epochs n_epochs max_epochs num_train_epochs",
    "model.timesteps": "t num_timesteps n_timesteps num_train_timesteps train_timesteps diffusion_steps steps",
    "training.batch_size": "bs batchsize train_batch_size global_batch_size per_device_train_batch_size",
    "training.accumulate_grad_batches": "gradient_accumulation_steps grad_accum gradient_accumulate_every",
    "training.gradient_clip_val": "grad_clip clip_grad_norm max_grad_norm gradient_clip gradient_clipping clip_grad",
    "training.precision": "mixed_precision amp fp16 bf16 use_fp16 dtype",
    "training.devices": "gpus num_gpus n_gpus num_processes gpu",
    "training.log_every_n_steps": "log_every logging_steps log_interval log_freq",
    "ema.half_life": "ema_decay decay ema_rate ema_half_life ema_beta",
    "checkpoint.every": "save_every save_interval checkpoint_every checkpointing_steps save_freq save_steps",
    "sample_grid.every": "sample_every sample_interval sample_freq save_images_epochs",
    "score.every": "eval_every fid_every eval_interval",
    "run_dir": "output_dir log_dir logdir save_dir results_folder outdir",
    "init": "pretrained resume_from resume_from_checkpoint checkpoint_path ckpt pretrained_model_name_or_path",
    "wandb.project": "project wandb_project",
    "sampler.name": "sampler_name solver scheduler method",
    "sampler.steps": "num_inference_steps sampling_steps sampling_timesteps ddim_steps num_sampling_steps n_steps "
    "inference_steps num_steps sample_steps nfe timestep_respacing steps t timesteps",
    "sampler.guidance_scale": "cfg cfg_scale guidance guidance_weight unconditional_guidance_scale w",
    "sampler.class_label": "class label classes class_labels y",
    "sampler.eta": "ddim_eta",
    "samplers.NAME.steps": "num_inference_steps sampling_steps sampling_timesteps ddim_steps num_sampling_steps nfe",
    "samplers.NAME.guidance_scale": "cfg cfg_scale guidance guidance_weight w",
    "count": "n num_samples n_samples samples num_images n_images number",
    "out": "output output_dir outdir output_path save_dir dir",
    "extractor.name": "extractor_name feature_extractor features",
}


def unknown_key(skeleton: Any, path: Sequence[str]) -> str:
    """Return the message about a key that the dataclass instance `skeleton` does not have at `path`."""
    other = _other_component(skeleton, path)
    if other is not None:
        return other
    suggested = _suggested(path, list(all_keys(skeleton)))
    steps = " diffexp counts optimiser steps, never epochs." if "epoch" in path[-1].lower() else ""
    if suggested:
        return f"unknown key.{steps} Did you mean {either(suggested)}?"
    return f"unknown key.{steps} Known keys: {', '.join(_known(skeleton, path))}."


def either(words: Sequence[str]) -> str:
    """Return "a", "a or b", or "a, b or c"."""
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def all_keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield every key of a dataclass instance; NAME replaces the names in a mapping."""
    for each in fields(node):
        key, value = f"{prefix}{each.name}", getattr(node, each.name)
        yield key
        if isinstance(value, dict):
            below = [one for one in value.values() if is_dataclass(one)]
            yield from dict.fromkeys(name for one in below for name in all_keys(one, f"{key}.{_NAME}."))
        elif is_dataclass(value):
            yield from all_keys(value, f"{key}.")


def _other_component(skeleton: Any, path: Sequence[str]) -> str | None:
    """Return the message about a key that another choice at its place has, or None."""
    node: Any = skeleton
    for depth, part in enumerate(path):
        below = node.get(part) if isinstance(node, dict) else getattr(node, part, None)
        if isinstance(node, Component) and part not in hints_of(node):
            having = [
                name
                for name in node.registry.names
                if any(each.name == part for each in fields(node.registry.schema(name)))
            ]
            if not having:
                return None
            place = ".".join([*path[:depth], "name"])
            return (
                f"this key belongs to {place} = {either(having)}, got {node.name}. Set {place}={having[0]}, or remove "
                "the key."
            )
        node = below
    return None


def _suggested(path: Sequence[str], keys: list[str]) -> list[str]:
    """Return the keys that were probably meant, at most three, or none rather than an unlikely one."""
    if path[0] == "sampler" and "sampler" not in keys:  # only requests have a single one
        end = ".".join([f".samplers.{_NAME}", *path[1:]]) if path[1:] else ".samplers"
        return [each for each in keys if each.endswith(end)]
    key, word = ".".join(path), path[-1].lower().replace("-", "_")
    ends = [end for end, words in _SYNONYMS.items() if word in words.split()]
    synonyms = [each for end in ends for each in keys if each == end or each.endswith(f".{end}")]
    same_end = [each for each in keys if _last(each).lower() == word]
    near = _nearest(key, same_end)
    for found in (near, _in_section(path, [*synonyms, *same_end]), _in_section(path, synonyms)):
        if found and len(found) <= _MOST:
            return found
    siblings = {_last(each): each for each in keys if each.split(".")[:-1] == list(path[:-1])}
    close = difflib.get_close_matches(word, siblings, n=1, cutoff=0.7)
    if close:
        return [siblings[close[0]]]
    anywhere = difflib.get_close_matches(word, {_last(each) for each in keys}, n=1, cutoff=0.8)
    found = [each for each in keys if anywhere and _last(each) == anywhere[0]]
    return found if len(found) <= _MOST else []


def _nearest(key: str, same_end: Sequence[str]) -> list[str]:
    """Return the key of `same_end` of which only the section is misspelt, as a list of one, or []."""
    return difflib.get_close_matches(key, same_end, n=1, cutoff=0.85) if "." in key else []


def _in_section(path: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Return the keys in the section of `path` if there are some, else all keys; each once."""
    found = list(dict.fromkeys(keys))
    return [each for each in found if each.split(".")[0] == path[0] and len(path) > 1] or found


def _known(skeleton: Any, path: Sequence[str]) -> list[str]:
    """Return the keys of the deepest section on the path."""
    node, prefix = skeleton, ""
    for part in path[:-1]:
        below = node.get(part) if isinstance(node, dict) else getattr(node, part, None)
        if not is_dataclass(below) and not isinstance(below, dict):
            break
        node, prefix = below, f"{prefix}{part}."
    names = list(node) if isinstance(node, dict) else [each.name for each in fields(node)]
    return [f"{prefix}{name}" for name in names]


def _last(key: str) -> str:
    return key.rpartition(".")[2]
