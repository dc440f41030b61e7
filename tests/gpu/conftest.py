"""What the tests on a GPU share.

They state their tolerances as relative norms: ‖ours - reference‖ / ‖reference‖, see `tests.gpu.comparing`.
"""

import os

# before cuBLAS is loaded: the workspace with which its results do not vary
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
import torch

from diffexp.hardware import determinism_restored, full_float32


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/gpu/" in str(item.path):
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def device():
    """The GPU; the CPU in a rehearsal."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


@pytest.fixture
def cuda(device):
    """The GPU, for what a CPU cannot rehearse."""
    if device.type != "cuda":
        pytest.skip("a rehearsal: this needs the GPU itself")
    torch.cuda.empty_cache()
    return device


@pytest.fixture(autouse=True)
def float32():
    """No TF32, which rounds to 11 bits; torch's choices of algorithms are restored after the test."""
    with full_float32(), determinism_restored():
        yield
