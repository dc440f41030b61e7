"""Words and sections that several schemas share."""

from dataclasses import dataclass, field
from typing import Literal

Weights = Literal["ema", "raw"]
Split = Literal["train", "held_out", "test"]  # of a dataset
Accelerator = Literal["auto", "cpu", "gpu"]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
SamplingPrecision = Literal["auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true"]


@dataclass
class WandbConfig:
    """Where a run appears in W&B. Without a login (and without WANDB_MODE) it is recorded offline.

    Keys:
        name: null takes that of the run's directory.
    """

    project: str = "diffexp"
    entity: str | None = None
    name: str | None = None
    group: str | None = None
    job_type: str | None = None
    tags: list[str] = field(default_factory=list)
