"""How much work a trial is, said before it starts."""

from dataclasses import dataclass

from diffexp.config.experiment import Experiment
from diffexp.sweeps.resolving import Resolved

# Forward, and backward at about twice that.
PASSES = 3


@dataclass(frozen=True)
class Work:
    """What a trial costs, in passes of one image through the network.

    Attributes:
        training: images that pass forward and backward.
        sampling: network calls, each for one image, of grids and scores.
    """

    training: int
    sampling: int

    @property
    def passes(self) -> int:
        """Forward passes of one image that it amounts to."""
        return PASSES * self.training + self.sampling


def work_of(resolved: Resolved) -> Work:
    """The work of a trial."""
    experiment, request = resolved.experiment, resolved.request
    timesteps = getattr(experiment.model, "timesteps", 1)
    if request is not None:
        assert request.sampler is not None
        return Work(0, request.blocks * request.count * (request.sampler.steps or timesteps))
    steps = experiment.training.steps
    sampling = sum(-(-steps // every) * calls for every, calls in _sampled(experiment, timesteps))
    return Work(steps * experiment.training.batch_size, sampling)


def _sampled(experiment: Experiment, timesteps: int) -> list[tuple[int, int]]:
    """(every how many steps, network calls for one image times images) of grids and scores."""
    found = []
    for section in (experiment.sample_grid, experiment.score):
        for sampler in section.samplers.values() if section is not None else ():
            if section is not None and sampler is not None:
                found.append((section.every, section.count * (sampler.steps or timesteps)))
    return found


def seconds_a_pass(resolved: Resolved) -> float:
    """Seconds that the trial's network takes here for one image in a batch, measured; imports torch.

    Raises:
        UserError: for a model that cannot be built.
    """
    from diffexp.config.diffusion import DDIMConfig
    from diffexp.evaluation.sampling import seconds_a_call
    from diffexp.hardware import autocast, device_for, precision_for
    from diffexp.models.building import build_model

    experiment = resolved.experiment
    device = device_for(experiment.training.accelerator)
    model = build_model(experiment).to(device).eval()
    steps = min(5, getattr(experiment.model, "timesteps", 1))
    batch = min(128, experiment.training.batch_size)
    with autocast(precision_for(experiment.training.precision, device), device):
        return seconds_a_call(model, DDIMConfig(steps=steps), batch) / batch
