"""Images from any folder or zip, with one sub-folder a class or none."""

import math
from pathlib import Path

import torch

from diffexp.data.archives import ImageFiles, open_files
from diffexp.data.image_files import StoredImages
from diffexp.data.images import ImageSet
from diffexp.data.layout import Role, classes, splits
from diffexp.data.notices import notice
from diffexp.errors import UserError
from diffexp.rng import derive_seed


def load(
    split: str,
    image_size: int,
    channels: int,
    memory_gb: float,
    path: str,
    test_path: str | None = None,
    test_fraction: float = 0.0,
    on_decode_error: str = "refuse",
) -> ImageSet:
    """The images of a folder or zip, sorted by name and converted by the rules of `diffexp.data.decode`.

    `diffexp.data.layout` says what its folders mean: splits, classes or nothing. Hidden files are dropped; diffexp
    counts in a warning what else it cannot read.

    Where there is a train folder, the training images are in it. The test split is, in this order: `test_path`,
    the share `test_fraction` of the training images, the test folder, the validation folder.

    Every file is decoded once, so that damage shows before training. If the split fits into memory, this happens at
    each start. Otherwise diffexp keeps what it found in its cache, and each batch decodes its own files.

    Args:
        split: "train" or "test".
        image_size: height and width of the images.
        channels: 1 (grey) or 3 (RGB).
        memory_gb: largest size of a split in memory as uint8, in GiB.
        path: the folder or zip.
        test_path: the folder or zip of the test split; its classes must be among those of `path`. If it has splits
            itself, its test or validation folder is meant.
        test_fraction: without test_path, the share of `path` that makes the test split, in [0, 1). A file belongs
            to it or not by a hash of its name relative to `path`, whatever other files there are.
        on_decode_error: "refuse" files that cannot be decoded, or "skip" them with a warning.

    Raises:
        UserError: if there are no images, no test split or broken files, or a path is no folder or zip; if folders or
            labels have no clear meaning (see `diffexp.data.layout`).
    """
    place = Path(path).expanduser()
    files = open_files(place)
    parts = splits(place, files.names)
    names = files.names if parts is None else parts["train"]
    class_of, class_names = classes(files, names)
    if test_path is not None:
        if split == "test":
            files = open_files(Path(test_path).expanduser())
            names = _held_out(files)
            class_of = _test_classes(files, names, class_names, path)
    elif parts is None or test_fraction > 0:
        names = _share(names, split, test_fraction, path)
    elif split == "test":
        names = parts[_test_role(parts)]
        class_of = _test_classes(files, names, class_names, path)
    if parts is not None:
        _report(place, parts, used=test_path is None and test_fraction == 0)

    number_of = {name: number for number, name in enumerate(class_names)}
    labels = torch.tensor([number_of[class_of[name]] for name in names]) if class_of else None
    shape = (channels, image_size, image_size)
    images = StoredImages(files, names, shape, labels, class_names if class_of else None)
    fits = len(names) * math.prod(shape) <= memory_gb * 2**30
    return images.in_memory(on_decode_error) if fits else images.checked(on_decode_error)


def _test_role(parts: dict[Role, list[str]]) -> Role:
    return "test" if "test" in parts else "validation"


def _held_out(files: ImageFiles) -> list[str]:
    """The images of a place that is given for the test split."""
    parts = splits(files.place, files.names)
    return files.names if parts is None else parts[_test_role(parts)]


def _test_classes(files: ImageFiles, names: list[str], class_names: list[str], path: str) -> dict[str, str]:
    """The class of each test image, if the training images have classes."""
    class_of, found = classes(files, names, class_names) if class_names else ({}, [])
    unknown = sorted(set(found).difference(class_names))
    if unknown:
        raise UserError(
            f"{files.place} has test classes that the training images of {path} do not: {', '.join(unknown)}."
        )
    return class_of


def _report(place: Path, parts: dict[Role, list[str]], used: bool) -> None:
    """Warn which folder is which split."""
    test = _test_role(parts) if used else None
    unused = [f"{role} ({len(parts[role])} images)" for role in parts if role not in ("train", test)]
    tested = "" if test is None else f", tests on {test} ({len(parts[test])})"
    ignored = f" and ignores {', '.join(sorted(unused))}" if unused else ""
    notice(
        f"{place}: its folders are splits, not classes; diffexp trains on train ({len(parts['train'])} images){tested}"
        f"{ignored}."
    )


def _share(names: list[str], split: str, test_fraction: float, path: str) -> list[str]:
    """The files of one split, by the rule of `load`."""
    if split == "test" and test_fraction == 0:
        raise UserError(f"{path} has no test split: set data.test_path or data.test_fraction.")
    share = [name for name in names if (derive_seed("test split", name) < test_fraction * 2**64) == (split == "test")]
    if not share:
        raise UserError(f"data.test_fraction={test_fraction} leaves no {split} image among the {len(names)} of {path}.")
    return share
