"""The names of the metrics that a training logs, as regular expressions."""

import re

from diffexp.config.schemas.extractors import ExtractorConfig
from diffexp.config.schemas.metrics import metric_name, metrics
from diffexp.config.schemas.models.base import ModelConfig
from diffexp.config.schemas.scoring import ScoreConfig
from diffexp.config.schemas.validation import ValidationConfig

# Extractors whose name in metrics starts with their name in the config; the weights of others contain their name.
_NAMED = ("inception", "clip", "dinov2", "digits_v1", "fashion_mnist_v1")


def training_metrics(
    model: ModelConfig, score: ScoreConfig | None, validation: ValidationConfig | None, *, ema: bool
) -> str:
    """Return a regular expression that matches the names of all metrics of a training.

    Args:
        model: the model.
        score: the scores, or None.
        validation: the loss on held-out images, or None.
        ema: whether the weights are averaged.
    """
    found = [f"train/({'|'.join(('loss', 'lr', *model.logged))})"]
    if score is not None:
        found.append(_scores(model, score))
    if validation is not None:
        of_weights = "_error|_train|_best" + ("|_raw" if ema else "")
        levels = "|".join(level_name(level) for level in model.held_out_levels)
        found.append(f"val/bits_per_dim({of_weights})?" + (f"|{levels}" if levels else ""))
    return "|".join(found)


def level_name(level: float) -> str:
    """Return the name of the denoising error at a level of log SNR, an integer: "val/error_logsnr_9"."""
    return f"val/error_logsnr_{level:.0f}"


def score_names() -> str:
    """Return a regular expression that matches the metrics of which a score consists: "fd", "fid", …"""
    return "|".join(name for schema in metrics() for name in (schema.name, schema.inception_name) if name is not None)


def score_ending(extractor: ExtractorConfig, count: int) -> str:
    """Return a regular expression that matches what follows them, the extractor and the number of images."""
    short = metric_name("fd", "", count, False).removeprefix("fd__")
    named = rf"_{extractor.name}.*_{short}" if extractor.name in _NAMED else rf"_.+_{short}"
    return rf"({named}|{short})" if extractor.name == "inception" else named


def _scores(model: ModelConfig, score: ScoreConfig) -> str:
    ending, distance = score_ending(score.extractor, score.count), "(fd|fid)"
    labels = "|".join(
        re.escape(f"{model.label(sampler)}-{score.weights}/")
        for sampler in score.samplers.values()
        if sampler is not None
    )
    return rf"score/(({labels})(({score_names()}){ending}|{distance}{ending}_best)|{distance}{ending}_best)"
