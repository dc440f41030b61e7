"""Estimates of the cost of a trial before it starts."""

from dataclasses import dataclass

from diffexp.config.schemas.experiment import Experiment
from diffexp.sweeps.resolve import Resolved

# One forward pass, and a backward pass that costs about two.
PASSES = 3


@dataclass(frozen=True)
class TrialCost:
    """The cost of a trial, in passes of one image through the network.

    Attributes:
        training: images with a forward and a backward pass.
        sampling: network calls for sample grids and scores, each for one image.
    """

    training: int
    sampling: int

    @property
    def passes(self) -> int:
        """The equivalent number of forward passes of one image."""
        return PASSES * self.training + self.sampling


def cost_of(resolved: Resolved) -> TrialCost:
    """Return the cost of a trial."""
    experiment, request = resolved.experiment, resolved.request
    if request is not None:
        assert request.sampler is not None
        calls = experiment.model.network_calls(request.sampler, experiment.data)
        return TrialCost(0, request.repeats * request.count * calls)
    steps = experiment.training.max_steps
    sampling = sum(-(-steps // every) * calls for every, calls in _sampled(experiment))
    return TrialCost(steps * experiment.training.batch_size, sampling)


def _sampled(experiment: Experiment) -> list[tuple[int, int]]:
    """Return, for each sampler of grids and scores, (steps between two draws, network calls per image × images)."""
    found = []
    for section in (experiment.sample_grid, experiment.score):
        for sampler in section.samplers.values() if section is not None else ():
            if section is not None and sampler is not None:
                calls = experiment.model.network_calls(sampler, experiment.data)
                found.append((section.every, section.count * calls))
    return found


def seconds_a_pass(resolved: Resolved) -> float:
    """Measure the seconds that the trial's network takes on this machine per image of a batch; imports torch.

    Raises:
        UserError: if the model cannot be built.
    """
    from diffexp.evaluation.sample_scores import seconds_a_call
    from diffexp.models.build import build_model
    from diffexp.system.devices import autocast, device_for, precision_for

    experiment = resolved.experiment
    device = device_for(experiment.training.accelerator)
    model = build_model(experiment).to(device).eval()
    usual = next(iter(experiment.model.default_samplers().values()))
    batch = min(128, experiment.training.batch_size)
    with autocast(precision_for(experiment.training.precision, device), device):
        return seconds_a_call(model, usual, batch) / batch
