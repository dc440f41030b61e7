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
    """Load MNIST: 60,000 training and 10,000 test images of 28×28 pixels, padded evenly with black.

    Args:
        split: "train" or "test".
        image_size: 28 or more.
        channels: must be 1.
        memory_gb: unused; the training split takes 60 MB at 32×32.
        root: the idx files, gzipped or not, are searched in root/MNIST/raw, root/MNIST, root/mnist/raw, root/mnist and
            root. Otherwise diffexp downloads them to root/MNIST/raw.

    Raises:
        UserError: if the files are damaged, or neither found nor downloaded.
    """
    return load_idx(_MNIST, split, image_size, Path(root).expanduser())
