"""Types and sections that several schemas share."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

Weights = Literal["ema", "raw"]
Split = Literal["train", "held_out", "test"]  # of a dataset
Accelerator = Literal["auto", "cpu", "gpu"]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
SamplingPrecision = Literal["auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true"]


# W&B's limits, which its client checks when a run starts.
_LONGEST_PROJECT = 128
LONGEST_TAG = 64
_NOT_IN_PROJECTS = "/\\#?%:"


@dataclass
class WandbConfig:
    """Where a run appears in Weights & Biases. Without a login and without WANDB_MODE, the run is recorded offline.

    Keys:
        project: W&B project; null uses the variable WANDB_PROJECT, else diffexp.
        entity: W&B user or team; null uses the account's default.
        name: display name; null uses the name of the run's directory.
        group: W&B group; null sets none.
        job_type: W&B job type; null sets none.
        tags: W&B tags.
    """

    project: str | None = None
    entity: str | None = None
    name: str | None = None
    group: str | None = None
    job_type: str | None = None
    tags: list[str] = field(default_factory=list)

    def project_name(self) -> str:
        """The W&B project of a run."""
        return self.project or os.environ.get("WANDB_PROJECT") or "diffexp"

    def limits(self) -> Iterator[tuple[str, str]]:
        """Yield ``(key, problem)`` for each value that W&B would refuse."""
        problem = project_problem(self.project_name())
        if problem is not None:
            yield "project", problem
        for tag in self.tags:
            if not 1 <= len(tag) <= LONGEST_TAG:
                yield "tags", f"expected 1 to {LONGEST_TAG} characters, as W&B requires, got {len(tag)} in {tag!r}."


def project_problem(project: str) -> str | None:
    """Return the problem of a W&B project's name, or None."""
    if len(project) <= _LONGEST_PROJECT and not set(project) & set(_NOT_IN_PROJECTS):
        return None
    rules = f"a W&B project of at most {_LONGEST_PROJECT} characters without {' '.join(_NOT_IN_PROJECTS)}"
    return f"expected {rules}, got {project!r}. Correct it here or, where this is null, in $WANDB_PROJECT."


def wandb_tag(text: str) -> str:
    """Return a text as a W&B tag: a long one is cut, and a hash keeps it distinct."""
    if len(text) <= LONGEST_TAG:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{text[: LONGEST_TAG - 9]}-{digest}"
