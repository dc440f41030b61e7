"""The metrics that the trials of a sweep log, as far as their configs determine them."""

import re

from diffexp.config.schemas.extractors import ExtractorConfig
from diffexp.config.schemas.logged import score_ending, score_names, training_metrics
from diffexp.config.schemas.metrics import metric_name
from diffexp.errors import UserError
from diffexp.sweeps.resolve import Resolved


def metric_problem(name: str, resolved: Resolved) -> str | None:
    """Return an error message if the trial does not log the sweep's metric, else None."""
    experiment = resolved.experiment
    if resolved.request is None:
        ema = experiment.ema is not None
        if re.fullmatch(training_metrics(experiment.model, experiment.score, experiment.validation, ema=ema), name):
            return None
        if experiment.score is None:
            return f"expected a logged metric such as train/loss, got {name!r} with score: null"
    else:
        if name in ("network_calls", "seconds"):
            return None
        extractor, count = _scored(resolved)
        if re.fullmatch(rf"score/({score_names()}){score_ending(extractor, count)}(_error)?", name):
            return None
    return f"expected a logged metric such as {usual_metric(resolved)}, got {name!r}"


def usual_metric(resolved: Resolved) -> str:
    """Return the default metric for comparing the trials of a sweep."""
    extractor, count = _scored(resolved)
    name = metric_name("fd", extractor.name, count, extractor.name == "inception")
    return f"score/{name}" if resolved.request is not None else f"score/{name}_best"


def _scored(resolved: Resolved) -> tuple[ExtractorConfig, int]:
    score, request = resolved.experiment.score, resolved.request
    if request is not None and request.extractor is not None:
        return request.extractor, request.count
    if score is None:
        raise UserError("metric: expected an extractor, got none: the training has no scores. Set extractor.name.")
    return score.extractor, score.count if request is None else request.count
