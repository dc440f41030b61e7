"""Types and sections that several schemas share."""

from dataclasses import dataclass, field
from typing import Literal

Weights = Literal["ema", "raw"]
Split = Literal["train", "held_out", "test"]  # of a dataset
Accelerator = Literal["auto", "cpu", "gpu"]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
SamplingPrecision = Literal["auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true"]


@dataclass
class WandbConfig:
    """Where a run appears in Weights & Biases. Without a login and without WANDB_MODE, the run is recorded offline.

    Keys:
        project: W&B project.
        entity: W&B user or team; null uses the account's default.
        name: display name; null uses the name of the run's directory.
        group: W&B group; null sets none.
        job_type: W&B job type; null sets none.
        tags: W&B tags.
    """

    project: str = "diffexp"
    entity: str | None = None
    name: str | None = None
    group: str | None = None
    job_type: str | None = None
    tags: list[str] = field(default_factory=list)
