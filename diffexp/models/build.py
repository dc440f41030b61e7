"""Build the model of an experiment."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from diffexp.config.schemas.experiment import Experiment
from diffexp.config.schemas.models.base import MODELS
from diffexp.config.schemas.schedules import SCHEDULES, ScheduleConfig
from diffexp.data.images import ImageSet
from diffexp.diffusion.schedules import MUCH_SIGNAL, Schedule, with_zero_terminal_snr
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


log = logging.getLogger(__name__)


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


def build_schedule(schedule: ScheduleConfig, timesteps: int) -> Schedule:
    """Build the schedule of a config; warns if it leaves much signal in x_T.

    Args:
        schedule: the config.
        timesteps: T, the number of timesteps.

    Raises:
        UserError: if the schedule is invalid for this T.
    """
    try:
        betas = SCHEDULES.build(schedule, timesteps)
        if not isinstance(betas, Tensor) or betas.shape != (timesteps,):
            raise ValueError(f"expected a tensor of shape ({timesteps},).")
        wanted = schedule.zero_terminal_snr
        built = Schedule(with_zero_terminal_snr(betas) if wanted else betas, zero_terminal_snr=wanted)
    except ValueError as error:
        raise UserError(f"model.schedule: {schedule.name} at model.timesteps = {timesteps}: {error}") from error
    if built.terminal_signal > MUCH_SIGNAL:
        rescalable = getattr(schedule, "rescale", "") == "none" and built.betas.max() * 1000 / timesteps < 1
        remedy = " Set rescale: 1000/T to keep the signal of T = 1000." if rescalable else ""
        log.warning(
            "model.schedule: expected √ᾱ_T near 0, got %s at T = %d with √ᾱ_T = %.3g. Sampling starts from N(0, I).%s",
            *(schedule.name, timesteps, built.terminal_signal, remedy),
        )
    return built
