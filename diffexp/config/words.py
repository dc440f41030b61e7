"""Words that several schemas share."""

from typing import Literal

Weights = Literal["ema", "raw"]
Accelerator = Literal["auto", "cpu", "gpu"]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
