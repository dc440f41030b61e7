"""A trained model, from a checkpoint or an exported file. Reading either executes nothing."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffexp.callbacks.ema import averaged
from diffexp.checkpoint_files import newest_whole, read_checkpoint
from diffexp.config import experiment_from_text
from diffexp.config.experiment import Experiment
from diffexp.config.merging import as_dict
from diffexp.config.merging import differing as differing_keys
from diffexp.config.models import ModelConfig
from diffexp.config.registry import Choice
from diffexp.config.trials import leaves
from diffexp.errors import UserError, did_you_mean
from diffexp.files import whole_file
from diffexp.hardware import device_for
from diffexp.models.base import GenerativeModel
from diffexp.models.building import build_model
from diffexp.runs import Run, config_text, find_checkpoint

EXPORTED = ".safetensors"
_FORMAT = "diffexp weights 1"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """What was trained, and its weights.

    Attributes:
        path: its file.
        step: optimiser steps done.
        experiment: what was trained.
        weights: the kinds that were kept, "raw" or "ema" or both; each the parameters and buffers by name.
    """

    path: Path
    step: int
    experiment: Experiment
    weights: dict[str, dict[str, Tensor]]

    def chosen(self, kind: str) -> dict[str, Tensor]:
        """The weights of a kind, "raw" or "ema".

        Raises:
            UserError: if they were not kept, or hold NaN or infinity.
        """
        if kind not in self.weights:
            kinds = {"raw": "raw", "ema": "averaged"}
            raise UserError(f"{self.path}: holds no {kinds[kind]} weights; use weights={next(iter(self.weights))}")
        broken = [name for name, tensor in self.weights[kind].items() if not tensor.isfinite().all()]
        if broken:
            raise UserError(f"{self.path}: expected finite weights, got NaN or infinity in {_some(broken)}")
        return self.weights[kind]


def load_trained(path: Path) -> Trained:
    """Read a checkpoint, the newest one of a run's directory, or an exported file.

    Raises:
        UserError: if there is none, it is damaged, or not one of ours.
    """
    file = find_checkpoint(path)
    if path.is_dir():
        newest = newest_whole(Run(path).checkpoints)
        file = newest[0] if newest is not None else file
    return _from_export(file) if file.suffix == EXPORTED else _from_checkpoint(file)


def build_trained(trained: Trained, weights: str, accelerator: str) -> GenerativeModel:
    """The model with the wanted weights, on the wanted device.

    Raises:
        UserError: if the weights do not fit the network, those that are wanted were not kept, or there is no such
            device.
    """
    chosen = trained.chosen(weights)
    model = build_model(trained.experiment)
    try:
        model.load_state_dict(chosen)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{trained.path}: the weights do not fit the config in it: {error}") from error
    return model.to(device_for(accelerator)).eval()


def start_from(model: GenerativeModel, path: Path, key: str) -> Experiment:
    """Give a model the weights of a trained one, the averaged ones if they were kept: the start of a fine-tuning.

    Args:
        model: or a part of one.
        path: a run, a checkpoint or an exported file.
        key: of the config that names it.

    Returns:
        What was trained there.

    Raises:
        UserError: if there are none, or they do not fit it.
    """
    try:
        trained = load_trained(path)
    except UserError as error:
        raise UserError(f"{key}: {error}") from error
    try:
        weights = trained.chosen("ema" if "ema" in trained.weights else "raw")
    except UserError as error:
        raise UserError(f"{key}: {error}") from error
    own = model.state_dict()
    differing = sorted(
        name
        for name in {*own, *weights}
        if name not in own or name not in weights or own[name].shape != weights[name].shape
    )
    if differing:
        raise UserError(
            f"{key}: {trained.path}: its weights (model.name = {trained.experiment.model.name}) do not fit: they "
            f"differ in {_some(differing)}; take the keys of its config's model, and data.image_size"
        )
    model.load_state_dict(weights)
    return trained.experiment


def check_same_function(theirs: Experiment, ours: Experiment) -> None:
    """Refuse weights that would compute something else in our model than in that which was trained.

    Raises:
        UserError: naming the keys of the model that differ and are not in `ours.init_allow`.
    """
    differing = {
        f"model.{key}": (one, two) for key, one, two in differing_keys(_function(theirs.model), _function(ours.model))
    }
    known = {f"model.{'.'.join(path)}" for path, _ in leaves(_function(ours.model))}
    for key in ours.init_allow:
        if key not in known:
            raise UserError(f"init_allow: expected keys of model, got {key}.{did_you_mean(key, sorted(known))}")
    refused = [
        f"{key} is {one} there and {two} here" for key, (one, two) in differing.items() if key not in ours.init_allow
    ]
    if refused:
        raise UserError(
            f"init: {ours.init}: its weights fit, but compute something else here:\n  "
            + "\n  ".join(refused)
            + "\nTake its values, or list these keys in init_allow"
        )
    for key, one, two in differing_keys(_noise(theirs.model), _noise(ours.model)):
        log.warning("init: %s: model.%s is %s there and %s here: timesteps mean other noise", ours.init, key, one, two)


def _function(choice: Choice) -> dict[str, Any]:
    """What a schema says of what its weights compute, given the noise."""
    left = {*choice.training_only, "timesteps", "schedule"}
    values = {each.name: getattr(choice, each.name) for each in fields(choice) if each.name not in left}
    return {name: _function(value) if isinstance(value, Choice) else value for name, value in values.items()}


def _noise(model: ModelConfig) -> dict[str, Any]:
    noise = model.noise()
    return {} if noise is None else {"schedule": str(as_dict(noise[0])), "timesteps": noise[1]}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3]) or 'none'}{more}"


def _from_checkpoint(path: Path) -> Trained:
    content = read_checkpoint(path)
    experiment = experiment_from_text(content["config"], str(path))
    weights = {"raw": content["state_dict"]}
    try:
        average = averaged(content)
        if average is not None:
            weights["ema"] = {**content["state_dict"], **average}
        if not all(isinstance(each, Tensor) for kind in weights.values() for each in kind.values()):
            raise TypeError
        return Trained(path, int(content["global_step"]), experiment, weights)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: holds weights of an unknown form") from error


# --- exported files


def export_weights(trained: Trained, kind: str, out: Path) -> None:
    """Write weights as safetensors. Its metadata hold the config, the step, the kind and a digest of the tensors.

    Args:
        trained: the model.
        kind: "raw" or "ema".
        out: the file.

    Raises:
        UserError: if the kind was not kept, or the file cannot be written.
    """
    tensors = {name: tensor.contiguous().clone() for name, tensor in trained.chosen(kind).items()}
    about = {
        "format": _FORMAT,
        "config": config_text(trained.experiment),
        "step": str(trained.step),
        "weights": kind,
        "sha256": _digest(tensors),
    }
    try:
        with whole_file(out) as file:
            file.write(save(tensors, about))
    except OSError as error:
        raise UserError(f"out: {out} cannot be written: {error.strerror}") from error


def _from_export(path: Path) -> Trained:
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("format") != _FORMAT:
                raise ValueError("it was not written by `diffexp export`")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
        if _digest(tensors) != about["sha256"]:
            raise ValueError("its weights do not have the SHA-256 that it tells")
        config, step, kind = about["config"], int(about["step"]), about["weights"]
    except (SafetensorError, OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: is damaged or of another kind: {error}") from error
    return Trained(path, step, experiment_from_text(config, str(path)), {kind: tensors})


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
