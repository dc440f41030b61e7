"""Choices that depend on the hardware, in one place."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

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


def check_devices(device: torch.device, wanted: int) -> None:
    """See that there are enough devices of the kind.

    Raises:
        UserError: if there are fewer GPUs than wanted. A CPU runs any number of processes.
    """
    if device.type == "cuda" and wanted > torch.cuda.device_count():
        raise UserError(f"training.devices: {wanted} GPUs are wanted, but there are {torch.cuda.device_count()}")


def precision_for(precision: str, device: torch.device) -> str:
    """A Lightning precision; "auto" is bf16-mixed where the hardware computes in bfloat16, else 32-true.

    Raises:
        UserError: for 16-mixed on a CPU, which has no float16 training.
    """
    if precision == "16-mixed" and device.type == "cpu":
        raise UserError("precision: 16-mixed needs a GPU; use bf16-mixed, 32-true or auto")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.get_device_capability(device) >= (8, 0) else "32-true"
    return "bf16-mixed" if _cpu_computes_in_bfloat16() else "32-true"


def _cpu_computes_in_bfloat16() -> bool:
    if not hasattr(torch.cpu, "get_capabilities"):  # torch 2.9
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context in which a network runs in a precision of `precision_for` outside a Trainer."""
    dtype = torch.float16 if precision == "16-mixed" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "32-true")


@contextmanager
def full_float32() -> Iterator[None]:
    """Within this context float32 is computed as such on GPUs, never as TF32, whatever the program has allowed."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [each.fp32_precision for each in backends]
    for each in backends:
        each.fp32_precision = "ieee"
    try:
        yield
    finally:
        for each, precision in zip(backends, before, strict=True):
            each.fp32_precision = precision


@contextmanager
def determinism_restored() -> Iterator[None]:
    """After this context torch's choice of algorithms is what it was before, whatever a Trainer has set in it."""
    mode, benchmark = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.backends.cudnn.benchmark = benchmark


@contextmanager
def out_of_memory_explained(key: str, images: int, remedy: str) -> Iterator[None]:
    """Within this context a GPU that runs out of memory is the mistake of a key that says how many images it gets.

    Args:
        key: full name of that key.
        images: at once.
        remedy: a sentence that says which keys to change.

    Raises:
        UserError: instead of torch's error.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        gigabytes = torch.cuda.get_device_properties(0).total_memory / 2**30 if torch.cuda.is_available() else 0
        raise UserError(
            f"{key}: expected images that fit into the {gigabytes:.0f} GiB of the GPU, got {images} at once. {remedy}"
        ) from error
