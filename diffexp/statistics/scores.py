"""Estimates from scored blocks of images: paired over the images where they come from the same seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffexp.statistics.estimates import Estimates, over_replicates
from diffexp.statistics.influence import Influence


@dataclass(frozen=True)
class ScoredBlock:
    """The score of a block of images.

    Attributes:
        images: (seed, first index, number) of the images; two blocks with the same are paired. None if unknown.
        value: the score.
        error: its standard error; None if unknown.
        influence: the influence of each image; None if unknown.
    """

    images: tuple[int, int, int] | None
    value: float
    error: float | None = None
    influence: Influence | None = None


def estimate_scores(settings: Sequence[Sequence[ScoredBlock]]) -> Estimates | None:
    """Return the estimates of several settings with the errors of a limited number of images.

    Blocks that all settings have from the same seeds are paired: by the influence of each image, or without influences
    over two and more blocks as replicates. Otherwise the estimates are independent, with the errors of the scores.

    Args:
        settings: for each setting, its blocks under one protocol; at least one each.

    Returns:
        The estimates, or None if an error is unknown.
    """
    by_images = [{block.images: block for block in each if block.images is not None} for each in settings]
    common = sorted(set.intersection(*map(set, by_images))) if by_images else []
    if common:
        blocks = [[each[images] for each in by_images] for images in common]
        influences = [[block.influence for block in each if block.influence is not None] for each in blocks]
        values = np.array([[block.value for block in each] for each in blocks]).mean(axis=0)
        if all(len(each) == len(settings) and len({e.values.shape for e in each}) == 1 for each in influences):
            return Estimates.over_images(values, influences, sum(number for _, _, number in common))
        if len(common) > 1 and len(settings) > 1:
            replicates = [{images: each[images].value for images in common} for each in by_images]
            return over_replicates(replicates, "blocks of images")
    means = np.array([np.mean([block.value for block in each]) for each in settings])
    errors = [_error(each) for each in settings]
    known = [error for error in errors if error is not None]
    return Estimates.unpaired(means, np.array(known)) if len(known) == len(errors) else None


def _error(blocks: Sequence[ScoredBlock]) -> float | None:
    """Return the standard error of the mean over blocks of different images."""
    errors = [block.error for block in blocks if block.error is not None]
    if len(errors) == len(blocks):
        return float(np.sqrt(np.mean(np.square(errors)) / len(blocks)))
    return float(np.std([block.value for block in blocks], ddof=1) / len(blocks) ** 0.5) if len(blocks) > 1 else None
