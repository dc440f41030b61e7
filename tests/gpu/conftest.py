"""What the tests on a GPU share.

They state their tolerances as relative norms: ‖ours - reference‖ / ‖reference‖, see `tests.helpers.comparing`.
"""

import os

# before cuBLAS is loaded: the workspace with which its results do not vary
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

from pathlib import Path

import pytest
import torch

from diffexp.system.devices import determinism_restored, full_float32

FOLDER = Path(__file__).parent


class TellAtOnce:
    """Reports a failure when it happens: the kit may kill pytest before its summary."""

    def __init__(self, config):
        self.config = config

    def pytest_runtest_logreport(self, report):
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and reporter is not None and report.nodeid.startswith("tests/gpu/"):
            lines = report.longreprtext.splitlines() or [""]
            reporter.write_line("\n".join(["", *lines[-40:], f"FAILED {report.nodeid} - {lines[-1]}"]))


def pytest_configure(config):
    if not hasattr(config, "workerinput"):  # the process that reports
        config.pluginmanager.register(TellAtOnce(config))


def pytest_collection_modifyitems(config, items):
    here = [item for item in items if item.path.is_relative_to(FOLDER)]
    for item in here:
        item.add_marker(pytest.mark.gpu)
    if config.getoption("--rehearse"):
        left_out = {item for item in here if "cuda" in item.fixturenames or "16-mixed" in item.nodeid}
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def device():
    """The GPU; the CPU in a rehearsal."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


@pytest.fixture
def cuda(device):
    """The GPU, for what a CPU cannot rehearse: with --rehearse these tests are deselected."""
    torch.cuda.empty_cache()
    return device


@pytest.fixture(autouse=True)
def float32():
    """No TF32, which rounds to 11 bits; torch's choices of algorithms are restored after the test."""
    with full_float32(), determinism_restored():
        yield
