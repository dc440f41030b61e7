"""`diffexp import`: convert a model of another library to a file of diffexp."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from diffexp.checkpoints.export import export_weights
from diffexp.checkpoints.load import TrainedModel, build_trained
from diffexp.commands.import_out import check_import
from diffexp.config.load import imported_experiment
from diffexp.config.schemas.experiment import Experiment
from diffexp.config.schemas.models.diffusion import DiffusionConfig
from diffexp.config.schemas.networks import UNetConfig
from diffexp.config.schemas.requests import ImportRequest
from diffexp.convert import ddpm, diffusers, diffusers_reader, unet_names
from diffexp.errors import UserError
from diffexp.runs.directory import config_text
from diffexp.system.files import atomic_write_text

log = logging.getLogger(__name__)


def import_model(path: Path, request: ImportRequest, overrides: Sequence[str]) -> tuple[Path, Path]:
    """Write NAME.safetensors, which every command takes like a checkpoint, and NAME.yaml, which trains from it.

    Args:
        path: a diffusers folder, or a checkpoint of the DDPM or DDIM authors' code.
        request: the files to write.
        overrides: the experiment's keys that the model does not determine, such as data.name.

    Returns:
        The paths of both files.

    Raises:
        UserError: if the model cannot be read, diffexp lacks its network, or the files cannot be written.
    """
    out, config = check_import(path, request)
    model, size, channels, tensors, names = _read(path, request.image_size)
    experiment = imported_experiment(str(path), model, size, channels, overrides)
    _warn_of_guesses(path, model, overrides)
    weights = _ours(path, experiment, tensors, names)
    trained = TrainedModel(path, 0, experiment, {"ema": weights})
    build_trained(trained, "ema", "cpu")  # raises if the weights do not fit
    export_weights(trained, "ema", out)
    atomic_write_text(config, config_text(replace(experiment, init=str(out.absolute()))))
    return out, config


def _warn_of_guesses(path: Path, model: dict[str, Any], overrides: Sequence[str]) -> None:
    """Warn of keys of the diffusion process that neither the model nor an override determines."""
    guessed = [
        f"model.{key}"
        for key in ("timesteps", "schedule", "prediction")
        if key not in model and not any(text.startswith((f"model.{key}=", f"model.{key}.")) for text in overrides)
    ]
    if guessed:
        log.warning(
            "%s: expected a scheduler_config.json, got none. diffexp assumes its defaults for %s. Give these keys if "
            "the model was trained with other values.",
            *(path, ", ".join(guessed)),
        )


def _read(
    path: Path, image_size: int | None
) -> tuple[dict[str, Any], int, int, dict[str, Tensor], unet_names.Names | None]:
    """Return (model keys of diffexp, image_size, channels, tensors, names of the tensors).

    The names are None for a diffusers folder, where they depend on the network.
    """
    if path.is_dir():
        if not diffusers_reader.is_diffusers(path):
            raise UserError(
                f"{path}: expected a diffusers folder, got one without model_index.json and config.json. "
                "Give another path."
            )
        return *diffusers_reader.read(path), None
    tensors = ddpm.read(path)
    channels = int(tensors["conv_in.weight"].shape[1])
    size = ddpm.image_size(tensors) if image_size is None else image_size
    if size is None:
        raise UserError(
            f"{path}: image_size: expected an integer, as weights without attention do not determine it, got null. "
            "Give image_size=…"
        )
    model = {"network": ddpm.network(tensors, size), **ddpm.PROCESS}
    return model, size, channels, tensors, ddpm.NAMES


def _ours(
    path: Path, experiment: Experiment, tensors: dict[str, Tensor], names: unet_names.Names | None
) -> dict[str, Tensor]:
    model = experiment.model
    assert isinstance(model, DiffusionConfig)
    assert isinstance(model.network, UNetConfig)
    names = names or diffusers.names(model.network)
    try:
        return unet_names.to_ours(tensors, names, model.network, experiment.data.image_size)
    except KeyError as error:
        raise UserError(f"{path}: expected the tensor {error.args[0]}, got none. Give a complete file.") from error
    except ValueError as error:
        raise UserError(
            f"{path}: expected the network of its config, got another: {error}. Give the matching config."
        ) from error
