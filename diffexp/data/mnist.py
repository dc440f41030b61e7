"""MNIST."""

from pathlib import Path

from diffexp.data.idx import Collection, load_idx
from diffexp.data.images import ImageSet

_MNIST = Collection(
    "MNIST",
    class_names=[str(digit) for digit in range(10)],
    folders=["MNIST/raw", "MNIST", "mnist/raw", "mnist", "."],
)


def load(split: str, image_size: int, channels: int, memory_gb: float, root: str) -> ImageSet:
    """MNIST: 60,000 training and 10,000 test images of 28×28 pixels, padded evenly with black.

    Args:
        split: "train" or "test".
        image_size: 28 or more.
        channels: 1.
        memory_gb: not needed; the training split takes 60 MB at 32×32.
        root: the idx files, gzipped or not, are looked for in root/MNIST/raw, root/MNIST, root/mnist/raw,
            root/mnist and root, and else downloaded to root/MNIST/raw.

    Raises:
        UserError: if the files are damaged, or neither found nor downloaded.
    """
    return load_idx(_MNIST, split, image_size, Path(root).expanduser())
