"""Record the versions and the machine of a run, so that differing results can be explained."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import diffexp

PACKAGES = ("torch", "torchvision", "lightning", "numpy", "omegaconf", "pillow", "wandb")


def describe_environment(plugins: list[str]) -> dict[str, Any]:
    """Return versions, command line, git commit, device and Slurm ids as plain data."""
    return {
        "diffexp": diffexp.__version__,
        "command": sys.argv,
        "plugins": plugins,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": _git(),
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "slurm": {name: value for name, value in os.environ.items() if name.startswith("SLURM_") and "ID" in name},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    """Return the commit of the checkout that diffexp runs from and whether it is dirty, or None outside one."""
    package = Path(diffexp.__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git(
            "ls-files", "--error-unmatch", "__init__.py"
        )  # a checkout that merely contains site-packages does not count
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
