"""Ranking of scores: the best one, and those statistically indistinguishable from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Relative differences of FID below this are within the variation of repeated trainings and evaluations.
INCONCLUSIVE = 0.013


@dataclass(frozen=True)
class ScoreEstimate:
    """A score to compare; lower is better.

    Attributes:
        value: the score, or the mean of several.
        spread: standard deviation of a single score.
        protocol: the id of its `diffexp.evaluation.protocol.Protocol`.
    """

    value: float
    spread: float
    protocol: str


def best_and_ties(entries: Sequence[ScoreEstimate]) -> tuple[int, set[int]]:
    """Return the index of the lowest score, and the indices of the others that tie with it.

    Two scores tie if they differ by less than 2 √(sd₁² + sd₂²), or by less than 1.3 %.

    Raises:
        ValueError: if there is no score, or the scores have different protocols and are not comparable.
    """
    if len({entry.protocol for entry in entries}) != 1:
        raise ValueError("expected scores of one protocol, got none or scores of different protocols")
    best = min(range(len(entries)), key=lambda index: entries[index].value)
    return best, {index for index in range(len(entries)) if index != best and tie(entries[best], entries[index])}


def tie(one: ScoreEstimate, other: ScoreEstimate) -> bool:
    """Whether two scores of one protocol are statistically indistinguishable."""
    difference = abs(one.value - other.value)
    noise = 2 * math.hypot(one.spread, other.spread)
    return difference < max(noise, INCONCLUSIVE * max(one.value, other.value))
