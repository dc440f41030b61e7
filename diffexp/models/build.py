"""The model that an experiment describes."""

import logging

import torch
from torch import Tensor

from diffexp.config.schemas.experiment import Experiment
from diffexp.config.schemas.models.base import MODELS
from diffexp.config.schemas.schedules import SCHEDULES, ScheduleConfig
from diffexp.data.images import ImageSet
from diffexp.diffusion.schedules import MUCH_SIGNAL, Schedule, with_zero_terminal_snr
from diffexp.errors import UserError
from diffexp.models.base import GenerativeModel
from diffexp.rng import derive_seed


def build_model(experiment: Experiment) -> GenerativeModel:
    """The untrained model of an experiment, its weights drawn from the seed.

    Raises:
        UserError: for a schedule that is invalid at its T.
    """
    data = experiment.data
    shape = (data.channels, data.image_size, data.image_size)
    with torch.random.fork_rng(devices=[]):  # built on the CPU
        torch.manual_seed(derive_seed("weights", experiment.seed))
        model = MODELS.build(experiment.model, shape)
    assert isinstance(model, GenerativeModel)
    model.optim, model.seed = experiment.optim, experiment.seed
    return model


log = logging.getLogger(__name__)


def build_training_model(experiment: Experiment) -> GenerativeModel:
    """The model of an experiment, prepared as its `training` section says.

    Raises:
        UserError: for a schedule that is invalid at its T, or a model that cannot be compiled or recorded.
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
    """Check that a model was built for images of a set.

    Raises:
        UserError: if they have another shape, or other classes.
    """
    if images.image_shape != model.image_shape:
        raise UserError(f"data: the images are {images.image_shape}, but the config says {model.image_shape}")
    there = None if images.class_names is None else len(images.class_names)
    if model.classes is not None and model.classes != there:
        found = "has no labels" if there is None else f"has {there} classes"
        raise UserError(f"model.classes: is {model.classes}, but the data {found}")


def build_schedule(schedule: ScheduleConfig, timesteps: int) -> Schedule:
    """The schedule that a config describes; warns if it leaves much signal.

    Raises:
        UserError: if it is invalid at this T.
    """
    try:
        betas = SCHEDULES.build(schedule, timesteps)
        if not isinstance(betas, Tensor) or betas.shape != (timesteps,):
            raise ValueError(f"must give a tensor of shape ({timesteps},)")
        wanted = schedule.zero_terminal_snr
        built = Schedule(with_zero_terminal_snr(betas) if wanted else betas, zero_terminal_snr=wanted)
    except ValueError as error:
        raise UserError(f"model.schedule: {schedule.name} at model.timesteps = {timesteps}: {error}") from error
    if built.terminal_signal > MUCH_SIGNAL:
        rescalable = getattr(schedule, "rescale", "") == "none" and built.betas.max() * 1000 / timesteps < 1
        remedy = "; rescale: 1000/T keeps what T = 1000 has" if rescalable else ""
        log.warning(
            "model.schedule: %s at T = %d leaves √ᾱ_T = %.3g of the signal in x_T, but sampling starts from none%s",
            *(schedule.name, timesteps, built.terminal_signal, remedy),
        )
    return built
