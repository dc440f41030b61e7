"""Tests run on the CPU, one thread a process, and what a test trains is small.

Those marked gpu run if `-m gpu` asks for them and there is a GPU. With `--rehearse` they run on the CPU, as far as they
can, to test the tests.
"""

import gc
import os
import shutil
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from tests.helpers.warm import warm

# before torch is imported, and for the processes that tests start
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # more are processes, each of which imports torch for a few kernels
gc.disable()  # until all tests are collected: imports make a million objects and hardly any garbage
os.environ.setdefault("WANDB_MODE", "offline")
os.environ["WANDB_ERROR_REPORTING"] = "false"  # at exit it waits for half a minute if no server answers


@pytest.fixture(scope="session")
def real_fashion_mnist():
    """The images of Debian's package, where diffexp finds them."""
    from tests.helpers.needs import require_fashion_mnist  # imports torch

    require_fashion_mnist()


@pytest.fixture(scope="session")
def compiler():
    """What torch.compile calls on a CPU."""
    from tests.helpers.needs import require

    require(shutil.which(os.environ.get("CXX", "g++")), "`apt install g++`")
    headers = Path(sysconfig.get_path("include"), "Python.h").is_file()
    require(headers, "the headers of Python, `apt install python3-dev`")


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="all repetitions of the endurance tests, not a share of them")
    parser.addoption("--rehearse", action="store_true", help="run tests marked gpu on the CPU")


def pytest_configure(config):
    if config.getoption("-m") != "gpu" or config.getoption("--rehearse"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks for GPUs
    if config.getoption("--full"):
        os.environ["FULL"] = "1"  # for what is read while tests are collected
    if getattr(config.option, "numprocesses", None):
        gc.enable()  # this process only starts those that collect tests
        warm.prepare()


def pytest_collection_finish():
    gc.enable()
    gc.freeze()


def pytest_collection_modifyitems(config, items):
    start_long_modules_first(items)
    import torch  # after pytest_configure

    if torch.cuda.is_available() or config.getoption("--rehearse"):
        return
    of_gpus = [item for item in items if item.get_closest_marker("gpu")]
    if of_gpus:
        config.hook.pytest_deselected(items=of_gpus)
        items[:] = [item for item in items if item not in set(of_gpus)]


def start_long_modules_first(items):
    """Sort modules by their number of slow tests, so that no long one is left for a single worker at the end.

    Slurm's comes first of all: it mostly waits, so that others run meanwhile.
    """
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (item.path.name != "test_slurm.py", -slow[item.path], item.path))
