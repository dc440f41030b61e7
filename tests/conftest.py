"""Tests run on the CPU, one thread a process: two run at a time, and what a test trains is small."""

import os

# before torch is imported, and for the processes that tests start
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("WANDB_MODE", "offline")


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="all repetitions of the endurance tests, not a share of them")


def pytest_configure(config):
    if config.getoption("--full"):
        os.environ["FULL"] = "1"  # for what is read while tests are collected
