"""Weights of another training, to start from."""

import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

from diffexp.checkpoints.load import load_trained
from diffexp.config.merge import as_dict
from diffexp.config.merge import differing as differing_keys
from diffexp.config.registry import Component
from diffexp.config.schemas.experiment import Experiment
from diffexp.config.schemas.models.base import ModelConfig
from diffexp.config.trial import leaves
from diffexp.errors import UserError, did_you_mean
from diffexp.formatting import listed
from diffexp.models.base import GenerativeModel

log = logging.getLogger(__name__)


def init_weights(model: GenerativeModel, experiment: Experiment) -> None:
    """Give a new run's model the weights, and the trained parts, that its config names.

    Raises:
        UserError: if there are none, they do not fit, or would compute something else.
    """
    for part, path in experiment.model.trained_parts().items():
        start_from(getattr(model, part), Path(path), f"model.{part}")
    if experiment.init is not None:
        check_same_function(start_from(model, Path(experiment.init), "init"), experiment)


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
            f"differ in {listed(differing)}; take the keys of its config's model, and data.image_size"
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


def _function(component: Component) -> dict[str, Any]:
    """What a schema says of what its weights compute, given the noise."""
    left = {*component.training_only, "timesteps", "schedule"}
    values = {each.name: getattr(component, each.name) for each in fields(component) if each.name not in left}
    return {name: _function(value) if isinstance(value, Component) else value for name, value in values.items()}


def _noise(model: ModelConfig) -> dict[str, Any]:
    noise = model.noise()
    return {} if noise is None else {"schedule": str(as_dict(noise[0])), "timesteps": noise[1]}
