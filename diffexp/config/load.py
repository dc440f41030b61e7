"""Load typed, layered configs and validate them without torch."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from diffexp.config.context import Context
from diffexp.config.merge import MissingKeyError, as_dict, merge, merge_values
from diffexp.config.schemas.experiment import Experiment, SampleGridConfig
from diffexp.config.schemas.loggers import LOGGERS
from diffexp.config.schemas.models.base import default_samplers_of
from diffexp.config.schemas.models.diffusion import DiffusionConfig
from diffexp.config.schemas.requests import (
    EvaluateRequest,
    ExportRequest,
    ExtractorRequest,
    ImportRequest,
    SampleRequest,
    ScoreRequest,
)
from diffexp.config.schemas.samplers import SamplerConfig
from diffexp.config.schemas.scoring import ScoreConfig
from diffexp.config.sources import Layer, file_layers, find_config, override_layer, parse_yaml, stored_layer
from diffexp.config.trial import Trial
from diffexp.config.validate import context_of, fit_defaults, validate
from diffexp.errors import UserError

__all__ = [
    "about_data",
    "amended",
    "experiment_from_text",
    "imported_experiment",
    "load_data",
    "load_evaluate_request",
    "load_experiment",
    "load_export_request",
    "load_extractor_training",
    "load_import_request",
    "load_sample_request",
    "load_score_request",
    "load_values",
]

Schema = TypeVar("Schema")

# The sections of an experiment that comparing images with its data uses.
_DATA = ("data.", "score.extractor.", "score.reference.")


def load_experiment(config: str, overrides: Sequence[str] = (), trial: Trial | None = None) -> Experiment:
    """Load the experiment of a config file, a run directory or a ready config, with overrides.

    Args:
        config: as in `find_config`.
        overrides: strings ``key=value``.
        trial: trial of a sweep; its values override all others.

    Raises:
        UserError: if it is invalid.
    """
    return _experiment(_layers(Experiment, config, overrides, trial))


def load_values(config: str) -> dict[str, Any]:
    """Load an experiment as nested plain data, also one that lacks required keys, whose value is then "(required)".

    Raises:
        UserError: if it is invalid. Ranges are not checked where a required key is missing.
    """
    try:
        return as_dict(load_experiment(config))
    except MissingKeyError:
        layers = _layers(Experiment, config, (), None)
        return merge_values(_defaults(layers, _default_samplers(layers)), layers, missing="(required)")


def load_data(config: str, overrides: Sequence[str] = ()) -> Experiment:
    """Load an experiment for its data and the settings of its scores; nothing else of it is validated.

    Args:
        config: as in `find_config`.
        overrides: strings ``data.KEY=value``.

    Raises:
        UserError: if these parts are invalid, or another part has an unknown key or a value of a wrong type.
    """
    return _experiment(_layers(Experiment, config, overrides, None), only=_DATA)


def _layers(schema: type, config: str, overrides: Sequence[str], trial: Trial | None) -> list[Layer]:
    given = [override_layer(text) for text in overrides]
    if trial is None:
        return [*file_layers(find_config(config)), *given]
    based = file_layers(find_config(trial.base)) if trial.base is not None else []
    return [*file_layers(find_config(config)), *based, trial.defaults(schema), *given, trial.values()]


def _experiment(layers: Sequence[Layer], *, only: tuple[str, ...] = ("",)) -> Experiment:
    """Return the experiment of layers, with the model's default samplers if the layers name none.

    Args:
        layers: the layers, later over earlier.
        only: the sections to validate, as in `validate`.
    """
    usual = _default_samplers(layers)
    merged = merge(_defaults(layers, usual), layers)
    context = context_of(merged.config)
    fit_defaults(merged, context)
    validate(merged, context, only=only)
    return merged.config


def _default_samplers(layers: Sequence[Layer]) -> dict[str, SamplerConfig]:
    """Return the default samplers of the model and the number of timesteps that the layers name.

    Their names do not depend on the timesteps, so that ``ddim-50: null`` removes the sampler at any T.
    """
    given: dict[str, Any] = {"name": DiffusionConfig.name}
    for layer in layers:
        model = layer.values.get("model")
        given |= model if isinstance(model, dict) else {"name": model} if isinstance(model, str) else {}
    names, samplers = default_samplers_of(given["name"]), default_samplers_of(given["name"], given.get("timesteps"))
    return dict(zip(names, samplers.values(), strict=True))


def _defaults(layers: Sequence[Layer], samplers: dict[str, SamplerConfig]) -> Experiment:
    defaults = Experiment(sample_grid=SampleGridConfig(samplers=dict(samplers)))
    if any("score" in layer.values for layer in layers):
        defaults.score = ScoreConfig(samplers=dict(list(samplers.items())[:1]))
    return defaults


def experiment_from_text(text: str, source: str, overrides: Sequence[str] = ()) -> Experiment:
    """Load the experiment from the text of a config.yaml in `source`, such as a checkpoint, with overrides.

    Skips loggers of plugins that are not loaded, because a trained model can be used without them.

    Raises:
        UserError: if it is invalid.
    """
    values, texts = parse_yaml(text, source)
    if isinstance(values.get("loggers"), list):
        values["loggers"] = [name for name in values["loggers"] if name in LOGGERS.names]
    return _experiment([stored_layer(source, values, texts), *map(override_layer, overrides)])


def load_sample_request(overrides: Sequence[str], experiment: Experiment) -> SampleRequest:
    """Load the request to sample from a model trained by `experiment`.

    Raises:
        UserError: if it is invalid.
    """
    defaults = SampleRequest()
    for sampler in list(experiment.model.default_samplers().values())[:1]:
        defaults.sampler = sampler
    return _request(defaults, [override_layer(text) for text in overrides], context_of(experiment))


def load_export_request(overrides: Sequence[str], experiment: Experiment) -> ExportRequest:
    """Load the request to export a model trained by `experiment`.

    Raises:
        UserError: if it is invalid.
    """
    return _request(ExportRequest(), [override_layer(text) for text in overrides], context_of(experiment))


def load_import_request(overrides: Sequence[str]) -> tuple[ImportRequest, list[str]]:
    """Load the request to import a model; return it and the other overrides, which belong to the experiment.

    Raises:
        UserError: if it is invalid.
    """
    own = [text for text in overrides if text.partition("=")[0] in as_dict(ImportRequest())]
    request = _request(ImportRequest(), [override_layer(text) for text in own], Context())
    others = [text for text in overrides if text not in own]
    layers = [override_layer(text) for text in others]
    _require_data(layers)
    merge(Experiment(), layers)  # for misspelt keys; the values are validated with those of the model
    return request, others


def _require_data(layers: Sequence[Layer]) -> None:
    data = [layer.values.get("data", {}) for layer in layers]
    if not any(isinstance(each, str) or "name" in each for each in data):
        raise UserError("data.name: required key is missing. Name the model's training data, as in data.name=cifar10.")


def imported_experiment(
    source: str, model: dict[str, Any], image_size: int, channels: int, overrides: Sequence[str]
) -> Experiment:
    """Return an experiment that would train an imported model.

    Args:
        source: path of the model, for messages.
        model: keys of its config.
        image_size: height and width of its images in pixels.
        channels: channels of its images.
        overrides: strings ``key=value``.

    Raises:
        UserError: if it is invalid.
    """
    given = [override_layer(text) for text in overrides]
    _require_data(given)
    found = {"name": "imported", "model": {"name": "diffusion", **model}}
    shape = {"data": {"image_size": image_size, "channels": channels}}
    about = [layer for layer in given if "data" in layer.values]
    others = [layer for layer in given if layer not in about]
    return _experiment([*about, Layer(source, shape), Layer(source, found), *others])


def load_evaluate_request(
    table: str | None, overrides: Sequence[str], experiment: Experiment, trial: Trial | None = None
) -> EvaluateRequest:
    """Load the request to evaluate a model trained by `experiment`.

    Args:
        table: a file or ready config, as in `find_config`; None uses the model's default table.
        overrides: strings ``key=value``.
        experiment: the training; its extractor and reference are the defaults.
        trial: trial of a sweep; its values override all others.

    Raises:
        UserError: if it is invalid.
    """
    defaults = EvaluateRequest(wandb=replace(experiment.wandb))
    if experiment.score is not None:
        defaults = replace(defaults, extractor=experiment.score.extractor, reference=experiment.score.reference)
    merged = merge(defaults, _layers(EvaluateRequest, table or experiment.model.default_table, overrides, trial))
    if not merged.config.samplers:
        merged.config.samplers = dict(experiment.model.default_samplers())
    context = context_of(experiment)
    fit_defaults(merged, context)
    validate(merged, context)
    return merged.config


def about_data(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the overrides into those of "data" and keys below it, and the others."""
    own = [text for text in overrides if text.startswith(("data.", "data="))]
    return own, [text for text in overrides if text not in own]


def amended(experiment: Experiment, overrides: Sequence[str]) -> Experiment:
    """Apply overrides to an experiment, for a trained model whose data has moved.

    Raises:
        UserError: if they are invalid.
    """
    return _experiment([Layer("the training's config", as_dict(experiment)), *map(override_layer, overrides)])


def load_score_request(overrides: Sequence[str], experiment: Experiment | None) -> ScoreRequest:
    """Load the request to score a set of images, against the data of `experiment` if given.

    Raises:
        UserError: if it is invalid.
    """
    defaults = ScoreRequest()
    if experiment is not None and experiment.score is not None:
        defaults = ScoreRequest(extractor=experiment.score.extractor, reference=experiment.score.reference)
    context = Context() if experiment is None else context_of(experiment)
    return _request(defaults, [override_layer(text) for text in overrides], context)


def load_extractor_training(config: str, overrides: Sequence[str]) -> tuple[Experiment, ExtractorRequest]:
    """Load the data and the request to train an extractor. Overrides that start with "data." apply to the data.

    Raises:
        UserError: if it is invalid.
    """
    data, rest = about_data(overrides)
    experiment = load_data(config, data)
    return experiment, _request(ExtractorRequest(), [override_layer(text) for text in rest], context_of(experiment))


def _request(defaults: Schema, layers: Sequence[Layer], context: Context) -> Schema:
    """Return the validated request of layers over its defaults, which are modified."""
    merged = merge(defaults, layers)
    fit_defaults(merged, context)
    validate(merged, context)
    return merged.config
