"""The parts of a recorded training between which its config changed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffexp.config.load import experiment_from_text
from diffexp.config.schemas.common import Precision
from diffexp.config.schemas.experiment import Experiment
from diffexp.reproduction.recorded_run import RecordedRun

# How the work is spread, which a repetition takes from the last config and the command line.
_PLACE = ("training.accelerator", "training.devices", "training.num_nodes")


@dataclass(frozen=True)
class Segment:
    """A part of a training with one config.

    Attributes:
        experiment: the config.
        until: the step at which the part ends.
        precision: the precision that the run chose if the config leaves it open, or None if unknown.
    """

    experiment: Experiment
    until: int
    precision: Precision | None


def segments(recording: RecordedRun, overrides: Sequence[str]) -> list[Segment]:
    """Return the parts of a recorded training up to its step, in order; one part if its config never changed.

    Args:
        recording: the record.
        overrides: ``key=value`` texts, which hold in every part.

    Raises:
        UserError: if the config or an override is invalid.
    """
    ends = sorted({each["step"] for each in recording.changes if each["step"] < recording.step})
    return [
        Segment(_before(recording, end, overrides), end, _precision(recording.environment, end))
        for end in [*ends, recording.step]
    ]


def _before(recording: RecordedRun, end: int, overrides: Sequence[str]) -> Experiment:
    """Return the config before the changes at step `end`."""
    undone = {
        each["key"]: each["before"]
        for each in reversed(recording.changes)  # the earliest wins
        if each["step"] >= end and "before" in each and each["key"] not in _PLACE
    }
    texts = [f"{key}={json.dumps(value)}" for key, value in undone.items()]
    return experiment_from_text(recording.config, recording.source, [*texts, *overrides])


def _precision(environment: dict[str, Any], end: int) -> Precision | None:
    """Return the precision that the run chose at its last start before the changes at step `end`."""
    starts = [*environment.get("earlier", []), environment]
    before = [start for start in starts if all(each["step"] < end for each in start.get("changes", []))]
    precision: Precision | None = (before or starts)[-1].get("precision")
    return precision
