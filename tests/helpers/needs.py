"""What tests need beyond README's prerequisites: without it they are skipped, or run on stand-ins; in CI they fail."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from diffexp.data.fashion_mnist import DEBIAN_FASHION_MNIST


def require(found: object, need: str) -> None:
    """Skip the running test unless `found`, where it needs what README does not ask for; in CI, fail it."""
    if found:
        return
    if "CI" in os.environ:
        pytest.fail(f"needs {need}, which CI must have", pytrace=False)
    pytest.skip(f"needs {need}")


def require_fashion_mnist() -> None:
    """As `require`, for Debian's package with the images of Fashion-MNIST."""
    require(DEBIAN_FASHION_MNIST.is_dir(), "`apt install dataset-fashion-mnist`")


def write_stand_ins(root: Path, count: int = 400) -> None:
    """Make diffexp find `count` grey rectangles a split as Fashion-MNIST."""
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for seed, prefix in enumerate(("train", "t10k")):
        draws = np.random.default_rng(seed)
        images = np.zeros((count, 28, 28), np.uint8)
        for image, (top, left) in zip(images, draws.integers(0, 20, (count, 2)), strict=True):
            height, width = draws.integers(4, 20, 2)
            image[top : top + height, left : left + width] = draws.integers(50, 256)
        labels = np.arange(count, dtype=np.uint8) % 10
        for kind, array in (("images", images), ("labels", labels)):
            packed = gzip.compress(idx_bytes(array), compresslevel=1)
            (folder / f"{prefix}-{kind}-idx{array.ndim}-ubyte.gz").write_bytes(packed)


def idx_bytes(array: np.ndarray) -> bytes:
    """The content of an idx file: its type and shape, then the bytes."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
