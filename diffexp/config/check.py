"""Check what a config needs from the machine, without torch: files, folders and packages."""

from typing import Any

from diffexp.config.context import Context
from diffexp.config.schemas.experiment import Experiment
from diffexp.config.schemas.requests import EvaluateRequest, ScoreRequest
from diffexp.config.validate import context_of, nodes
from diffexp.errors import UserError


def check_experiment(experiment: Experiment) -> None:
    """Check that the files, folders and packages that an experiment names are on this machine.

    Takes a fraction of a millisecond after the first call, because what a folder or file contains is cached until it
    changes. It does not check devices: a config may be checked on another machine than the one that trains.

    Raises:
        UserError: with the key and text of each problem, one per line.
    """
    _check(experiment, context_of(experiment))


def check_request(request: EvaluateRequest | ScoreRequest, experiment: Experiment | None = None) -> None:
    """Check that the files and packages that a request names, and the data of the experiment, are on this machine.

    Raises:
        UserError: with the key and text of each problem, one per line.
    """
    if experiment is None:
        _check(request, Context())
    else:
        _check(request, context_of(experiment))
        check_data(experiment)


def check_data(experiment: Experiment) -> None:
    """Check that the data of an experiment is on this machine.

    Raises:
        UserError: with the key and text of each problem, one per line.
    """
    _check(experiment.data, context_of(experiment), "data.")


def _check(config: Any, context: Context, place: str = "") -> None:
    found = [
        f"{prefix}{key}: {problem}"
        for prefix, node in nodes(config, place)
        if hasattr(node, "unavailable")
        for key, problem in node.unavailable(context)
    ]
    if found:
        raise UserError("\n".join(found))
