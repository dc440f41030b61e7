"""Choose devices, precision and algorithms for the hardware."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from diffexp.errors import UserError
from diffexp.system.memory import machine_memory


def device_for(accelerator: str) -> torch.device:
    """Return the first device of an accelerator.

    Args:
        accelerator: "auto" is a CUDA device if there is one, else the CPU; "gpu" is a CUDA device or Apple's MPS.

    Raises:
        UserError: for "gpu" without a GPU.
    """
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.device("cuda", 0)
    if accelerator == "gpu":  # never "auto", because MPS has been tested on a simulated device only
        if torch.backends.mps.is_available():
            return torch.device("mps", 0)
        raise UserError("accelerator: expected a GPU that torch can use, got none. Use cpu or auto.")
    return torch.device("cpu")


def memory_of(device: torch.device) -> int:
    """Return the bytes of memory of a device: a GPU's own, otherwise what this process may use."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return machine_memory()


# Types of devices that do not compute in float64.
WITHOUT_FLOAT64 = {"mps"}


def float64_device(device: torch.device) -> torch.device:
    """Return a device that computes in float64 for `device`: the CPU if that cannot, else the device itself."""
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device


def check_devices(device: torch.device, wanted: int) -> None:
    """Check that there are enough devices of a type.

    Raises:
        UserError: if there are fewer GPUs than `wanted`. A CPU runs any number of processes.
    """
    available = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device.type, wanted)
    if wanted > available:
        raise UserError(f"training.devices: expected at most {available}, the number of GPUs, got {wanted}.")


def precision_for(precision: str, device: torch.device) -> str:
    """Return a Lightning precision; "auto" is bf16-mixed on hardware that computes in bfloat16, else 32-true.

    Raises:
        UserError: for 16-mixed on a CPU, which has no float16 training.
    """
    if precision == "16-mixed" and device.type == "cpu":
        raise UserError("precision: expected bf16-mixed, 32-true or auto without a GPU, got 16-mixed.")
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
    """Return a context in which a network runs in a precision of `precision_for` outside of a Trainer."""
    dtype = torch.float16 if precision == "16-mixed" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "32-true")


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute float32 on GPUs exactly, never as TF32, within this context, whatever the program has set."""
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
    """Restore torch's choice of algorithms after this context, whatever a Trainer has set in it."""
    mode, benchmark = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.backends.cudnn.benchmark = benchmark


@contextmanager
def out_of_memory_explained(key: str, images: int, remedy: str) -> Iterator[None]:
    """Report an out-of-memory error of the GPU as an error of the key that sets the number of images.

    Args:
        key: full name of the key.
        images: images at once.
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
