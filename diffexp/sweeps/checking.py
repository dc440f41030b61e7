"""A sweep against our own schemas, before anything runs: a misspelt key must not cost 200 jobs."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffexp.config import about_data, amended, load_evaluate_request, load_experiment
from diffexp.config.evaluation import EvaluateRequest, ExtractorConfig, metric_name
from diffexp.config.experiment import Experiment
from diffexp.config.merging import as_yaml
from diffexp.config.plugins import load_plugins
from diffexp.config.trials import Trial
from diffexp.errors import UserError
from diffexp.runs import config_text
from diffexp.sweeps.command import Command
from diffexp.sweeps.file import SweepFile, parse_sweep
from diffexp.sweeps.parameters import nested

_TABLE = "evaluate/ddim_table"
_METRICS = "fd|kd|precision|recall|nearest|copies|inception_score"
# Extractors whose name in metrics begins like that in the config.
_NAMED = ("inception", "clip", "dinov2", "digits_v1", "fashion_mnist_v1")
# Where a run goes, and what it is called, is the sweep's to say.
_OURS = ("run_dir", "runs_dir", "out", "name")


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
        return self.experiment.training.nodes if self.request is None else 1


def resolve(command: Command, trial: Trial) -> Resolved:
    """The configs of a trial.

    Raises:
        UserError: for anything wrong with them.
    """
    if command.kind == "train":
        return Resolved(load_experiment(command.target, command.overrides, trial))
    data, rest = about_data(command.overrides)
    trained = amended(load_experiment(_run_of(command.target)), data)
    request = load_evaluate_request(command.table or _TABLE, rest, trained, trial)
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


def check_sweep(sweep: SweepFile, trials: Sequence[Trial]) -> Resolved:
    """Check every trial that is known, and what others may come to.

    Returns:
        The first trial's configs.

    Raises:
        UserError: naming the file and the trial.
    """
    load_plugins(sweep.command.plugins)
    for word in sweep.command.overrides:
        if word.partition("=")[0] in _OURS:
            raise UserError(f"{sweep.source}: command: {word}: where a trial goes is the sweep's to say")
    for parameter in sweep.parameters:
        if parameter.path[0] in (*_OURS, "wandb"):
            raise UserError(f"{sweep.source}: parameters.{parameter.key}: is the sweep's to say")
    first: Resolved | None = None
    for trial in [*trials, *typical(sweep)]:
        try:
            resolved = resolve(sweep.command, trial)
        except UserError as error:
            raise UserError(f"{sweep.source}: {trial.name}: {error}") from error
        first = first or resolved
    assert first is not None
    if sweep.metric is not None:
        problem = metric_problem(sweep.metric.name, first)
        if problem is not None:
            raise UserError(f"{sweep.source}: metric.name: {problem}")
    return first


def typical(sweep: SweepFile) -> Iterator[Trial]:
    """For a search: each parameter at its ends, the others at theirs in turn."""
    if sweep.method == "grid":
        return
    for place in range(max(len(parameter.typical()) for parameter in sweep.parameters)):
        values = {each.path: each.typical()[place % len(each.typical())] for each in sweep.parameters}
        yield Trial(sweep.name, nested(values))


def metric_problem(name: str, resolved: Resolved) -> str | None:
    """What is wrong with a sweep's metric, or None: it must be logged by every trial."""
    if resolved.request is None:
        if name.startswith("train/"):
            return None
        if resolved.experiment.score is None:
            return f"{name!r} is not logged: score is null"
    elif name in ("network_calls", "seconds"):
        return None
    usual = usual_metric(resolved)
    extractor, count = _scored(resolved)
    # of others, what they are called in metrics is known only when their weights are read
    plain = f"{extractor.name}.*" if extractor.name in _NAMED else ".+"
    short = metric_name("fd", "", count, False).removeprefix("fd__")
    scores = rf"({_METRICS})_{plain}_{short}"
    if extractor.name == "inception":
        scores = rf"({scores}|[fk]id{short})"
    if resolved.request is None:
        scores = rf"({scores}_best|[^/]+-(ema|raw)/{scores}(_best)?)"
    return None if re.fullmatch(f"score/{scores}", name) else f"{name!r} is not logged; {usual} is"


def usual_metric(resolved: Resolved) -> str:
    """The metric that the trials of a sweep are usually compared by."""
    extractor, count = _scored(resolved)
    name = metric_name("fd", extractor.name, count, extractor.name == "inception")
    return f"score/{name}" if resolved.request is not None else f"score/{name}_best"


def _scored(resolved: Resolved) -> tuple[ExtractorConfig, int]:
    if resolved.request is not None and resolved.request.extractor is not None:
        return resolved.request.extractor, resolved.request.count
    score = resolved.experiment.score
    if score is None:
        raise UserError("metric: the training has no scores, so extractor.name must be given")
    return score.extractor, resolved.request.count if resolved.request is not None else score.count


def on_other(sweep: SweepFile, target: str | None, overrides: Sequence[str], plugins: Sequence[str]) -> SweepFile:
    """The sweep with another config or run, more overrides and plugins.

    With another config its name says so, and a metric of scores becomes the one that is logged there.

    Raises:
        UserError: for anything wrong with them.
    """
    command = sweep.command.amended(target, overrides, plugins)
    if target is not None:
        command = replace(command, sweep=f"{sweep.name}-{Path(target).stem}")
    content: dict[str, Any] = {**sweep.content, "command": command.words()}
    if "name" in content:
        content["name"] = command.sweep
    changed = parse_sweep(content, sweep.source)
    if target is None or changed.metric is None:
        return changed
    load_plugins(command.plugins)
    values = {each.path: each.typical()[0] for each in changed.parameters}
    resolved = resolve(command, Trial(command.sweep, nested(values)))
    if metric_problem(changed.metric.name, resolved) is None:
        return changed
    return parse_sweep({**content, "metric": {**content["metric"], "name": usual_metric(resolved)}}, sweep.source)


def metric_of(changed: SweepFile, before: SweepFile) -> str | None:
    """A line that tells that the metric is another one now, or None."""
    one, two = before.metric, changed.metric
    if one is None or two is None or one.name == two.name:
        return None
    return f"metric: {one.name} → {two.name}"
