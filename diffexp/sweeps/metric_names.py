"""The metrics that the trials of a sweep log, as far as their configs determine them."""

import re

from diffexp.config.schemas.extractors import ExtractorConfig
from diffexp.config.schemas.metrics import metric_name, metrics
from diffexp.errors import UserError
from diffexp.sweeps.resolve import Resolved

# Extractors whose name in metrics starts with their name in the config; the weights of others contain their name.
_NAMED = ("inception", "clip", "dinov2", "digits_v1", "fashion_mnist_v1")


def metric_problem(name: str, resolved: Resolved) -> str | None:
    """Return an error message if the trial does not log the sweep's metric, else None."""
    if resolved.request is None:
        if re.fullmatch(f"train/({'|'.join(('loss', 'lr', *resolved.experiment.model.logged))})", name):
            return None
        if resolved.experiment.score is None:
            return f"expected a logged metric such as train/loss, got {name!r} with score: null"
    elif name in ("network_calls", "seconds"):
        return None
    if re.fullmatch(_scores(resolved), name):
        return None
    return f"expected a logged metric such as {usual_metric(resolved)}, got {name!r}"


def _scores(resolved: Resolved) -> str:
    """Return a regular expression that matches the names of the scores."""
    extractor, count = _scored(resolved)
    names = [name for schema in metrics() for name in (schema.name, schema.inception_name) if name is not None]
    distance = "(fd|fid)"
    short = metric_name("fd", "", count, False).removeprefix("fd__")
    named = rf"_{extractor.name}.*_{short}" if extractor.name in _NAMED else rf"_.+_{short}"
    ending = rf"({named}|{short})" if extractor.name == "inception" else named
    if resolved.request is not None:
        return rf"score/({'|'.join(names)}){ending}(_error)?"
    score = resolved.experiment.score
    assert score is not None
    model = resolved.experiment.model
    labels = "|".join(
        re.escape(f"{model.resolve(sampler).label()}-{score.weights}/")
        for sampler in score.samplers.values()
        if sampler is not None
    )
    return rf"score/(({labels})(({'|'.join(names)}){ending}|{distance}{ending}_best)|{distance}{ending}_best)"


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
