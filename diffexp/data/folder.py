"""Images from any folder or zip, with one sub-folder a class or none."""

import logging
import math
import os
from pathlib import Path, PurePosixPath

import torch

from diffexp.data.decoding import StoredImages
from diffexp.data.files import open_files
from diffexp.data.images import ImageSet
from diffexp.errors import UserError
from diffexp.randomness import derive_seed

log = logging.getLogger(__name__)


def load(
    split: str,
    image_size: int,
    channels: int,
    memory_gb: float,
    path: str,
    test_path: str | None = None,
    test_fraction: float = 0.0,
    broken: str = "refuse",
) -> ImageSet:
    """The images of a folder or zip, sorted by name and converted by the rules of `diffexp.data.pixels`.

    Folders around everything do not count. Below them, if every image lies in a sub-folder, the first-level
    sub-folders are the classes, sorted by name; otherwise the images are unlabelled. Hidden files are left out.

    If the split fits into memory, every file is decoded at the start. Otherwise only the headers are read at
    the start, and each batch decodes its own files; one whose damage shows only then stops the run with its
    name, whatever `broken` says, because leaving it out would change the order of all that follows.

    Args:
        split: "train" or "test".
        image_size: height and width of the images.
        channels: 1 (grey) or 3 (RGB).
        memory_gb: largest size of a split in memory as uint8, in GiB.
        path: the folder or zip.
        test_path: the folder or zip of the test split; its classes must be among those of `path`.
        test_fraction: without test_path, the share of `path` that makes the test split, in [0, 1). A file belongs
            to it or not by a hash of its name relative to `path`, whatever other files there are.
        broken: "refuse" files that cannot be decoded, or "skip" them with a warning.

    Raises:
        UserError: if there are no images, no test split or broken files, or a path is no folder or zip.
    """
    files = open_files(Path(path).expanduser())
    names = files.names
    class_of = _classes(names)
    class_names = sorted(set(class_of.values()))
    if test_path is None:
        names = _share(names, split, test_fraction, path)
    elif split == "test":
        files = open_files(Path(test_path).expanduser())
        names = files.names
        class_of = _classes(names) if class_of else {}
        unknown = sorted(set(class_of.values()).difference(class_names))
        if unknown:
            raise UserError(f"{test_path} has classes that {path} has not: {', '.join(unknown)}.")

    number_of = {name: number for number, name in enumerate(class_names)}
    labels = torch.tensor([number_of[class_of[name]] for name in names]) if class_of else None
    shape = (channels, image_size, image_size)
    images = StoredImages(files, names, shape, labels, class_names if class_of else None)
    fits = len(names) * math.prod(shape) <= memory_gb * 2**30
    return images.in_memory(broken) if fits else images.checked(broken)


def _classes(names: list[str]) -> dict[str, str]:
    """The class of each file, by the rule of `load`; empty if the files are unlabelled."""
    parts = [PurePosixPath(name).parts for name in names]
    around = len(os.path.commonprefix([path[:-1] for path in parts]))  # noqa: RUF071 (of tuples: part by part)
    loose = sum(len(path) == around + 1 for path in parts)
    if loose:
        if loose < len(names):
            log.warning("%d of %d images lie in no sub-folder, so sub-folders are no classes", loose, len(names))
        return {}
    return {name: path[around] for name, path in zip(names, parts, strict=True)}


def _share(names: list[str], split: str, test_fraction: float, path: str) -> list[str]:
    """The files of one split, by the rule of `load`."""
    if split == "test" and test_fraction == 0:
        raise UserError(f"{path} has no test split: set data.test_path or data.test_fraction.")
    share = [name for name in names if (derive_seed("test split", name) < test_fraction * 2**64) == (split == "test")]
    if not share:
        raise UserError(f"data.test_fraction={test_fraction} leaves no {split} image among the {len(names)} of {path}.")
    return share
