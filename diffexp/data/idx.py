"""Read MNIST and Fashion-MNIST from their idx files (http://yann.lecun.com/exdb/mnist/)."""

import gzip
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffexp.data.download import download
from diffexp.data.images import ImageSet, MemoryImages, pad_to_square
from diffexp.data.origin import Origin
from diffexp.errors import UserError, requires_extra

SIDE = 28
PREFIX = {"train": "train", "test": "t10k"}


@dataclass(frozen=True)
class Collection:
    """A data set of idx files.

    Attributes:
        torchvision_name: name of torchvision's class.
        class_names: names of the classes.
        folders: folders below root that may contain the files, the most specific first, because all these sets use the
            same file names.
        elsewhere: further folders.
        hint: another source of the files, for the message of a failed download.
    """

    torchvision_name: str
    class_names: Sequence[str]
    folders: Sequence[str]
    elsewhere: Sequence[Path] = ()
    hint: str = ""


def load_idx(collection: Collection, split: str, image_size: int, root: Path) -> ImageSet:
    """Read a split of a collection from below `root`, after downloading it there if it is not found.

    Raises:
        UserError: if the files are damaged, or neither found nor downloaded.
    """
    files = _find(collection, split, root)
    if files is None:
        _download(collection, root)
        files = _find(collection, split, root)
        assert files is not None, "torchvision has renamed the files"
    images_file, labels_file = files
    images = read_idx(images_file)
    labels = read_idx(labels_file).long()
    if images.shape[1:] != (SIDE, SIDE):
        raise UserError(f"{images_file}: expected images (N, {SIDE}, {SIDE}), got {tuple(images.shape)}. {_REPLACE}")
    if labels.shape != images.shape[:1]:
        raise UserError(
            f"{labels_file}: expected {len(images)} labels, as in {images_file}, got {len(labels)}. {_REPLACE}"
        )
    if labels.max() >= len(collection.class_names):
        raise UserError(f"{labels_file}: expected labels 0 to 9, got {labels.max()}. {_REPLACE}")
    padded = pad_to_square(images.unsqueeze(1), image_size)
    return MemoryImages(padded, labels, list(collection.class_names), Origin((SIDE, SIDE), (SIDE, SIDE)))


_REPLACE = "Replace the file, or delete it to download it again."


def read_idx(path: Path) -> Tensor:
    """Read the array in an idx file of unsigned bytes, gzipped (``.gz``) or not, as uint8 of its declared shape.

    Raises:
        UserError: if the file cannot be read, has another format, or is shorter or longer than it declares.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: expected a readable file, got: {error}. {_REPLACE}") from error
    # Format: two zeros, 8 for unsigned bytes, the number of dimensions; each as a big-endian int32; the data.
    if len(data) < 4 or data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
        raise UserError(f"{path}: expected an idx file of unsigned bytes, got another format. {_REPLACE}")
    start = 4 + 4 * data[3]
    shape = [int(length) for length in np.frombuffer(data[4:start], dtype=">u4")]
    if len(data) - start != math.prod(shape) or not math.prod(shape):
        raise UserError(
            f"{path}: expected {'×'.join(map(str, shape))} > 0 bytes, as declared, got {len(data) - start}. {_REPLACE}"
        )
    # copied, because tensors over a bytes object are read-only
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape).copy())


def _find(collection: Collection, split: str, root: Path) -> tuple[Path, Path] | None:
    """Return the images file and the labels file of a split, from the first folder that has both."""
    for folder in [*(root / name for name in collection.folders), *collection.elsewhere]:
        images = _idx_file(folder, f"{PREFIX[split]}-images", "idx3-ubyte")
        labels = _idx_file(folder, f"{PREFIX[split]}-labels", "idx1-ubyte")
        if images and labels:
            return images, labels
    return None


def _idx_file(folder: Path, stem: str, kind: str) -> Path | None:
    names = [f"{stem}{separator}{kind}{suffix}" for separator in "-." for suffix in ("", ".gz")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _download(collection: Collection, root: Path) -> None:
    with requires_extra("data: the download", "datasets"):
        import torchvision  # imported here because it is slow

    dataset = getattr(torchvision.datasets, collection.torchvision_name)
    folder = f"{collection.torchvision_name}/raw"
    download(
        lambda directory: dataset(directory, download=True),
        root,
        folder,
        f"Put train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and "
        f"t10k-labels-idx1-ubyte.gz into that folder.{collection.hint}",
    )
