"""Which metrics the trials of a sweep log, as far as their configs tell."""

import re

from diffexp.config.schemas.extractors import ExtractorConfig
from diffexp.config.schemas.metrics import metric_name, metrics
from diffexp.errors import UserError
from diffexp.sweeps.resolve import Resolved

# Extractors whose name in metrics begins like that in the config; what others are called stands in their weights.
_NAMED = ("inception", "clip", "dinov2", "digits_v1", "fashion_mnist_v1")


def metric_problem(name: str, resolved: Resolved) -> str | None:
    """What is wrong with a sweep's metric, or None: every trial must log it."""
    if resolved.request is None:
        if re.fullmatch(f"train/({'|'.join(('loss', 'lr', *resolved.experiment.model.logged))})", name):
            return None
        if resolved.experiment.score is None:
            return f"{name!r} is not logged: score is null; train/loss is"
    elif name in ("network_calls", "seconds"):
        return None
    return None if re.fullmatch(_scores(resolved), name) else f"{name!r} is not logged; {usual_metric(resolved)} is"


def _scores(resolved: Resolved) -> str:
    """A regular expression for the names of the scores."""
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
    """The metric that the trials of a sweep are usually compared by."""
    extractor, count = _scored(resolved)
    name = metric_name("fd", extractor.name, count, extractor.name == "inception")
    return f"score/{name}" if resolved.request is not None else f"score/{name}_best"


def _scored(resolved: Resolved) -> tuple[ExtractorConfig, int]:
    score, request = resolved.experiment.score, resolved.request
    if request is not None and request.extractor is not None:
        return request.extractor, request.count
    if score is None:
        raise UserError("metric: the training has no scores, so extractor.name must be given")
    return score.extractor, score.count if request is None else request.count
