"""Initialise a model with the weights of another training."""

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
    """Load the weights and the trained parts that a new run's config names into its model.

    Raises:
        UserError: if they are missing, do not fit, or would compute something else.
    """
    for part, path in experiment.model.trained_parts().items():
        start_from(getattr(model, part), Path(path), f"model.{part}")
    if experiment.init is not None:
        check_same_function(start_from(model, Path(experiment.init), "init"), experiment)


def start_from(model: GenerativeModel, path: Path, key: str) -> Experiment:
    """Load the weights of a trained model, the averaged ones if it has them, to fine-tune a model.

    Args:
        model: a model, or a part of one.
        path: a run, a checkpoint or an exported file.
        key: the config key of the path, for messages.

    Returns:
        The experiment of the trained model.

    Raises:
        UserError: if it has no weights or they do not fit the model.
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
            f"differ in {listed(differing)}. Copy model and data.image_size from its config."
        )
    model.load_state_dict(weights)
    return trained.experiment


def check_same_function(theirs: Experiment, ours: Experiment) -> None:
    """Check that weights compute the same in our model as in the trained one.

    Raises:
        UserError: if keys of the model differ that are not in `ours.init_allow`.
    """
    differing = {
        f"model.{key}": (one, two) for key, one, two in differing_keys(_function(theirs.model), _function(ours.model))
    }
    known = {f"model.{'.'.join(path)}" for path, _ in leaves(_function(ours.model))}
    for key in ours.init_allow:
        if key not in known:
            raise UserError(f"init_allow: expected keys of model, got {key}.{did_you_mean(key, sorted(known))}")
    refused = [
        f"{key}: expected {one}, got {two}." for key, (one, two) in differing.items() if key not in ours.init_allow
    ]
    if refused:
        raise UserError(
            f"init: {ours.init}: its weights fit, but compute something else in this model:\n  "
            + "\n  ".join(refused)
            + "\nUse the expected values, or list these keys in init_allow."
        )
    for key, one, two in differing_keys(_noise(theirs.model), _noise(ours.model)):
        log.warning(
            "init: %s: expected model.%s = %s, got %s. The timesteps of its weights mean other noise levels.",
            *(ours.init, key, one, two),
        )


def _function(component: Component) -> dict[str, Any]:
    """Return the keys of a schema that determine the function of its weights, without the noise schedule."""
    left = {*component.training_only, "timesteps", "schedule"}
    values = {each.name: getattr(component, each.name) for each in fields(component) if each.name not in left}
    return {name: _function(value) if isinstance(value, Component) else value for name, value in values.items()}


def _noise(model: ModelConfig) -> dict[str, Any]:
    noise = model.noise()
    return {} if noise is None else {"schedule": str(as_dict(noise[0])), "timesteps": noise[1]}
