"""What a trial comes to: its configs, with everything filled in."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from diffexp.config.load import about_data, amended, load_evaluate_request, load_experiment
from diffexp.config.merge import as_yaml
from diffexp.config.schemas.experiment import Experiment
from diffexp.config.schemas.requests import EvaluateRequest
from diffexp.config.trial import Trial
from diffexp.errors import UserError
from diffexp.runs.directory import config_text
from diffexp.sweeps.spec.command import Command


@dataclass(frozen=True)
class Resolved:
    """What a trial comes to.

    Attributes:
        experiment: what it trains, or has trained.
        request: what it evaluates; None for a training.
    """

    experiment: Experiment
    request: EvaluateRequest | None = None

    @property
    def text(self) -> str:
        """The resolved config, as a file for the command that the trial runs."""
        if self.request is None:
            return config_text(self.experiment)
        return as_yaml(replace(self.request, out=None))

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits of the resolved config."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]

    @property
    def devices(self) -> int:
        """How many devices it takes on each node."""
        return self.experiment.training.devices if self.request is None else 1

    @property
    def nodes(self) -> int:
        """How many nodes it takes."""
        return self.experiment.training.num_nodes if self.request is None else 1


def resolve(command: Command, trial: Trial) -> Resolved:
    """The configs of a trial.

    Raises:
        UserError: for anything wrong with them.
    """
    if command.kind == "train":
        return Resolved(load_experiment(command.target, command.overrides, trial))
    data, rest = about_data(command.overrides)
    trained = amended(load_experiment(_run_of(command.target)), data)
    request = load_evaluate_request(command.table, rest, trained, trial)
    if request.sampler is None:
        raise UserError("sampler: is required: a trial of diffexp evaluate scores one")
    return Resolved(trained, request)


def _run_of(target: str) -> str:
    """The run that a run's directory or a checkpoint in it names."""
    path = Path(target)
    run = path.parent.parent if path.suffix == ".ckpt" else path
    if not (run / "config.yaml").is_file():
        raise UserError(f"command: {target} is no run, or no checkpoint of one; train it first, or give --config RUN")
    return str(run)
