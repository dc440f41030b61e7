"""Tests run on the CPU, one thread a process: two run at a time, and what a test trains is small."""

import os
import shutil
import sysconfig
from pathlib import Path

import pytest

# before torch is imported, and for the processes that tests start
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("WANDB_MODE", "offline")


@pytest.fixture(scope="session")
def real_fashion_mnist():
    """The images of Debian's package, where diffexp finds them."""
    from tests.needs import require_fashion_mnist  # imports torch

    require_fashion_mnist()


@pytest.fixture(scope="session")
def compiler():
    """What torch.compile calls on a CPU."""
    from tests.needs import require

    require(shutil.which(os.environ.get("CXX", "g++")), "`apt install g++`")
    headers = Path(sysconfig.get_path("include"), "Python.h").is_file()
    require(headers, "the headers of Python, `apt install python3-dev`")


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="all repetitions of the endurance tests, not a share of them")


def pytest_configure(config):
    if config.getoption("--full"):
        os.environ["FULL"] = "1"  # for what is read while tests are collected
