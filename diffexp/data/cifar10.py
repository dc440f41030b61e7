"""CIFAR-10 in its original "python" batches."""

import shutil
from pathlib import Path

import torch

from diffexp.data.download import download
from diffexp.data.images import ImageSet, MemoryImages, pad_to_square
from diffexp.data.origin import Origin
from diffexp.errors import requires_extra


def load(split: str, image_size: int, channels: int, memory_gb: float, root: str) -> ImageSet:
    """Load CIFAR-10: 50,000 training and 10,000 test images of 32×32 RGB pixels, padded evenly with black.

    Args:
        split: "train" or "test".
        image_size: 32 or more.
        channels: must be 3.
        memory_gb: unused; the training split takes 150 MB at 32×32.
        root: the folder that contains cifar-10-batches-py or cifar-10-python.tar.gz; otherwise diffexp downloads them
            to it. The files' checksums are verified at every start, so damaged files are never used.

    Raises:
        UserError: if intact files are neither found nor downloaded.
    """
    with requires_extra("data.name: cifar10", "datasets"):
        from torchvision.datasets import CIFAR10  # slow to import

    folder = Path(root).expanduser()
    train = split == "train"

    def fetch(directory: str) -> None:
        archive = folder / CIFAR10.filename
        if archive.is_file():
            shutil.copy(archive, directory)
        CIFAR10(directory, train, download=True)

    try:
        dataset = CIFAR10(folder, train)
    except RuntimeError:  # torchvision raises it for missing and damaged files
        instead = f"Download {CIFAR10.filename} from {CIFAR10.url} into {folder}."
        download(fetch, folder, CIFAR10.base_folder, instead)
        dataset = CIFAR10(folder, train)
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    native = images.shape[-1], images.shape[-2]
    labels = torch.tensor(dataset.targets)
    return MemoryImages(pad_to_square(images, image_size), labels, list(dataset.classes), Origin(native, native))
