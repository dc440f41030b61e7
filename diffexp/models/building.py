"""The model that an experiment describes."""

import torch

from diffexp.config.experiment import Experiment
from diffexp.config.models import MODELS
from diffexp.models.base import GenerativeModel
from diffexp.randomness import derive_seed


def build_model(experiment: Experiment) -> GenerativeModel:
    """The untrained model of an experiment, its weights drawn from the seed.

    Raises:
        UserError: for a schedule that is invalid at its T.
    """
    data = experiment.data
    shape = (data.channels, data.image_size, data.image_size)
    with torch.random.fork_rng(devices=[]):  # built on the CPU
        torch.manual_seed(derive_seed("weights", experiment.seed))
        model = MODELS.build(experiment.model, shape, experiment.optim, experiment.seed)
    assert isinstance(model, GenerativeModel)
    return model
