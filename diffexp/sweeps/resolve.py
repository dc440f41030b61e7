"""Trials resolved to complete configs."""

import hashlib
from collections.abc import Iterable, Iterator
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
    """The resolved configs of a trial.

    Attributes:
        experiment: the experiment that it trains, or whose model it evaluates.
        request: the evaluation; None for a training.
    """

    experiment: Experiment
    request: EvaluateRequest | None = None

    @property
    def text(self) -> str:
        """The resolved config as YAML for the command that the trial runs."""
        if self.request is None:
            return config_text(self.experiment)
        return as_yaml(replace(self.request, out=None))

    @property
    def digest(self) -> str:
        """The first twelve hexadecimal digits of the SHA-256 of `text`."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]

    @property
    def seed(self) -> int:
        """The seed of the training or of the evaluation."""
        return self.experiment.seed if self.request is None else self.request.seed

    @property
    def devices(self) -> int:
        """The number of devices per node."""
        return self.experiment.training.devices if self.request is None else 1

    @property
    def nodes(self) -> int:
        """The number of nodes."""
        return self.experiment.training.num_nodes if self.request is None else 1


def resolve(command: Command, trials: Iterable[Trial]) -> Iterator[Resolved]:
    """Resolve the configs of trials, in order.

    Raises:
        UserError: if they are invalid.
    """
    if command.kind == "train":
        for trial in trials:
            yield Resolved(load_experiment(command.target, command.overrides, trial))
        return
    data, rest = about_data(command.overrides)
    trained = amended(load_experiment(_run_of(command.target)), data)
    for trial in trials:
        request = load_evaluate_request(command.table, rest, trained, trial)
        if request.sampler is None:
            raise UserError("sampler: expected one sampler, which each trial of diffexp evaluate scores, got none.")
        yield Resolved(trained, request)


def _run_of(target: str) -> str:
    """Return the run directory of a run or of a checkpoint in it."""
    path = Path(target)
    run = path.parent.parent if path.suffix == ".ckpt" else path
    if not (run / "config.yaml").is_file():
        raise UserError(
            f"command: expected a run or a checkpoint in one, got {target}. Train it first, or pass --config RUN."
        )
    return str(run)
