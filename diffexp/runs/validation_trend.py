"""What a sequence of validations says: the best one, whether the loss has risen for long, and whether to stop."""

import math
from collections.abc import Sequence

from diffexp.runs.validations import RecordedValidation

_CLEAR = 3.0  # standard errors by which a loss is above another
_LONG = 3  # successive validations


def comparable(found: Sequence[RecordedValidation], last: RecordedValidation) -> list[RecordedValidation]:
    """Return the validations before `last` of its protocol and weights, in the order of steps, and `last`."""
    kept = [each for each in found if each.step < last.step]
    return [each for each in kept if (each.protocol, each.weights) == (last.protocol, last.weights)] + [last]


def best(found: Sequence[RecordedValidation]) -> RecordedValidation:
    """Return the validation with the lowest loss on held-out images, the earliest of equal ones."""
    return min(found, key=lambda each: each.mean().value if math.isfinite(each.mean().value) else math.inf)


def exhausted(found: Sequence[RecordedValidation], patience: int) -> str | None:
    """Say why to stop, if the last `patience` validations were no better than an earlier one; else None."""
    lowest = best(found)
    if len(found) - 1 - found.index(lowest) < patience:
        return None
    return (
        f"no better held-out loss in {patience} successive validations (validation.patience); the best is that of step "
        f"{lowest.step}"
    )


def overfits(found: Sequence[RecordedValidation]) -> RecordedValidation | None:
    """Return the best validation if, with the last one, the loss has now risen for long; else None.

    It has if it is above the best earlier loss in three successive validations, by a paired test with z > 3, while the
    loss on training images is below that of the best. None also afterwards, so that a warning comes once.
    """
    ends = range(max(1, len(found) - _LONG), len(found) + 1)
    risen = [_has_risen(found[:end]) for end in ends]
    return best(found) if risen[-_LONG:] == [True] * _LONG and risen[:-_LONG] != [True] else None


def _has_risen(found: Sequence[RecordedValidation]) -> bool:
    *earlier, last = found
    if not earlier:
        return False
    before = best(earlier)
    return last.since(before).z > _CLEAR and last.mean("train").value < before.mean("train").value


def described(known: Sequence[RecordedValidation]) -> str:
    """Describe the last validation in one line, with its paired difference from the one before it."""
    last, mean = known[-1], known[-1].mean()
    text = f"step {last.step}: held-out {mean.value:.4f} ± {mean.error:.2g} bits/dim"
    text += f", train {last.mean('train').value:.4f}"
    if len(known) > 1:
        change = last.since(known[-2])
        text += f"; {change.value:+.4f} ± {change.error:.2g} since step {known[-2].step} (z = {change.z:+.1f})"
    return text
