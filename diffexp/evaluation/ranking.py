"""Which of several scores is best, and which cannot be told from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Differences of FID below this share are within what repeated trainings and evaluations move it by.
INCONCLUSIVE = 0.013


@dataclass(frozen=True)
class ScoreEstimate:
    """A score that is to be compared: lower is better.

    Attributes:
        value: the score, or the mean of several.
        spread: standard deviation of one such score.
        protocol: see `diffexp.evaluation.protocol`.
    """

    value: float
    spread: float
    protocol: str


def best_and_ties(entries: Sequence[ScoreEstimate]) -> tuple[int, set[int]]:
    """The index of the lowest score, and those of the others that differ from it by less than the noise.

    Two scores tie if they differ by less than 2 √(sd₁² + sd₂²), or by less than 1.3 %.

    Raises:
        ValueError: if there is none, or they are of different protocols: such scores have no order.
    """
    if len({entry.protocol for entry in entries}) != 1:
        raise ValueError("scores of different protocols cannot be ranked together")
    best = min(range(len(entries)), key=lambda index: entries[index].value)
    return best, {index for index in range(len(entries)) if index != best and tie(entries[best], entries[index])}


def tie(one: ScoreEstimate, other: ScoreEstimate) -> bool:
    """Whether two scores of one protocol cannot be told apart."""
    difference = abs(one.value - other.value)
    noise = 2 * math.hypot(one.spread, other.spread)
    return difference < max(noise, INCONCLUSIVE * max(one.value, other.value))
