"""Choices that depend on the hardware, in one place."""

import torch
from lightning.pytorch.utilities import rank_zero_only

from diffexp.errors import UserError


def device_for(accelerator: str) -> torch.device:
    """The first device of the accelerator "auto" (a GPU where there is one), "cpu" or "gpu".

    Raises:
        UserError: for "gpu" where there is none.
    """
    has_gpu = torch.cuda.is_available()
    if accelerator == "gpu" and not has_gpu:
        raise UserError("accelerator: there is no GPU here that torch can use; use cpu or auto")
    return torch.device("cuda", 0) if has_gpu and accelerator != "cpu" else torch.device("cpu")


def precision_for(precision: str, device: torch.device) -> str:
    """A Lightning precision; "auto" is bf16-mixed where the hardware computes in bfloat16, else 32-true."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.get_device_capability(device) >= (8, 0) else "32-true"
    capabilities = torch.cpu.get_capabilities()
    return "bf16-mixed" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "32-true"


def is_main_process() -> bool:
    """Whether this is the first of the processes that train together, also before a Trainer exists."""
    rank: int = getattr(rank_zero_only, "rank", 0)
    return rank == 0
