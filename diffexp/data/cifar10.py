"""CIFAR-10 in its original "python" batches."""

import shutil
from pathlib import Path

import torch

from diffexp.data.download import download
from diffexp.data.images import ImageSet, MemoryImages, pad_to_square
from diffexp.errors import requires_extra


def load(split: str, image_size: int, channels: int, memory_gb: float, root: str) -> ImageSet:
    """CIFAR-10: 50,000 training and 10,000 test images of 32×32 RGB pixels, padded evenly with black.

    Args:
        split: "train" or "test".
        image_size: 32 or more.
        channels: 3.
        memory_gb: not needed; the training split takes 150 MB at 32×32.
        root: holds the folder cifar-10-batches-py, or cifar-10-python.tar.gz; else it is downloaded to it.
            The files' checksums are compared at every start, so damaged ones are never used.

    Raises:
        UserError: if the files are neither found whole nor downloaded.
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
    except RuntimeError:  # what torchvision raises for missing and damaged files
        instead = f"Put {CIFAR10.filename} (from {CIFAR10.url}) into {folder} yourself."
        download(fetch, folder, CIFAR10.base_folder, instead)
        dataset = CIFAR10(folder, train)
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return MemoryImages(pad_to_square(images, image_size), torch.tensor(dataset.targets), list(dataset.classes))
