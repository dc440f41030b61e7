"""Build the model of an experiment."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from diffexp.config.schemas.experiment import Experiment
from diffexp.config.schemas.models.base import MODELS
from diffexp.data.images import ImageSet
from diffexp.errors import UserError
from diffexp.models.base import GenerativeModel
from diffexp.rng import derive_seed
from diffexp.system.memory import machine_memory


def build_model(experiment: Experiment, most: int | None = None) -> GenerativeModel:
    """Build the untrained model of an experiment, with weights drawn from its seed.

    Args:
        experiment: the experiment.
        most: the largest number of parameters; None is what fits into the machine's memory.

    Raises:
        UserError: if the schedule is invalid for its T, or the model has more parameters.
    """
    data = experiment.data
    shape = (data.channels, data.image_size, data.image_size)
    with torch.random.fork_rng(devices=[]), _at_most(most):  # built on the CPU
        torch.manual_seed(derive_seed("weights", experiment.seed))
        model = MODELS.build(experiment.model, shape)
    assert isinstance(model, GenerativeModel)
    model.optim, model.seed = experiment.optim, experiment.seed
    return model


@contextmanager
def _at_most(most: int | None) -> Iterator[None]:
    """Refuse a model with more parameters while its modules are built, before anything is written to their memory."""
    memory = machine_memory()
    limit, why = (memory // 4, f"for {memory / 2**30:.0f} GiB of memory") if most is None else (most, "as in the file")
    refusal = f"model: expected at most {limit:,} parameters, {why}, got more. Choose a smaller network."
    count = 0

    def check(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal count
        count += 0 if parameter is None else parameter.numel()
        if count > limit:
            raise UserError(refusal)

    hook = register_module_parameter_registration_hook(check)
    try:
        yield
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        raise UserError(refusal) from error
    finally:
        hook.remove()


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
