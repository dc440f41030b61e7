"""Build the model of an experiment."""

import torch

from diffexp.config.schemas.experiment import Experiment
from diffexp.config.schemas.models.base import MODELS
from diffexp.data.images import ImageSet
from diffexp.errors import UserError
from diffexp.models.base import GenerativeModel
from diffexp.rng import derive_seed


def build_model(experiment: Experiment) -> GenerativeModel:
    """Build the untrained model of an experiment, with weights drawn from its seed.

    Raises:
        UserError: if the schedule is invalid for its T.
    """
    data = experiment.data
    shape = (data.channels, data.image_size, data.image_size)
    with torch.random.fork_rng(devices=[]):  # built on the CPU
        torch.manual_seed(derive_seed("weights", experiment.seed))
        model = MODELS.build(experiment.model, shape)
    assert isinstance(model, GenerativeModel)
    model.optim, model.seed = experiment.optim, experiment.seed
    return model


def build_training_model(experiment: Experiment) -> GenerativeModel:
    """Build the model of an experiment with the options of its `training` section applied.

    Raises:
        UserError: if the schedule is invalid for its T, or the model does not support compilation or CUDA graphs.
    """
    model, settings = build_model(experiment), experiment.training
    if settings.compile:
        model.compile_network(training=True)
    if settings.cuda_graphs:
        model.use_cuda_graphs()
    if settings.channels_last:
        model.to(memory_format=torch.channels_last)
    return model


def check_images(images: ImageSet, model: GenerativeModel) -> None:
    """Check that a model fits the images of a set.

    Raises:
        UserError: if the shape of the images or the number of classes differs.
    """
    if images.image_shape != model.image_shape:
        raise UserError(f"data: expected images {model.image_shape}, as in the config, got {images.image_shape}.")
    there = None if images.class_names is None else len(images.class_names)
    if model.classes is not None and model.classes != there:
        found = "null, because the data has no labels" if there is None else f"{there}, as in the data"
        raise UserError(f"model.classes: expected {found}, got {model.classes}. Change it.")
