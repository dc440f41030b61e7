"""Images from any folder or zip, with class sub-folders or without."""

from pathlib import Path

import torch

from diffexp.data.archives import ImageFiles, open_files
from diffexp.data.image_files import StoredImages, fits_in_memory
from diffexp.data.images import ImageSet
from diffexp.data.layout import Role, classes, splits
from diffexp.errors import UserError
from diffexp.rng import derive_seed
from diffexp.system.notices import notice


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
    """Load the images of a folder or zip, sorted by name and converted by the rules of `diffexp.data.decode`.

    `diffexp.data.layout` defines which folders are splits and which are classes. Hidden files are ignored. A warning
    counts the other files that diffexp cannot read.

    If there is a train folder, it contains the training images. The test split is the first of these that exists:

    1. `test_path`;
    2. the share `test_fraction` of the training images;
    3. the test folder;
    4. the validation folder.

    Every file is decoded once, so that damage appears before training. If the split fits into memory, this happens at
    each start. Otherwise diffexp caches the result, and each batch decodes its own files.

    Args:
        split: "train" or "test".
        image_size: height and width of the images.
        channels: 1 (grey) or 3 (RGB).
        memory_gb: largest size of a split in memory as uint8, in GiB; see `fits_in_memory`.
        path: the folder or zip.
        test_path: the folder or zip of the test split. Its classes must be among those of `path`. If it has splits
            itself, its test or validation folder is read.
        test_fraction: without test_path, the share of `path` for the test split, in [0, 1). A hash of a file's name
            relative to `path` selects it, independent of the other files.
        on_decode_error: "refuse" raises on files that cannot be decoded. "skip" omits those found here, and later takes
            the next image in the place of one that cannot be decoded any more. Both warn.

    Raises:
        UserError: if there are no images, no test split or damaged files, if a path is neither a folder nor a zip, or
            if the meaning of folders or labels is unclear (see `diffexp.data.layout`).
        EnvironmentFailure: if the disk or the network fails.
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
    images = StoredImages(
        *(files, names, shape, labels, class_names if class_of else None),
        skip=on_decode_error == "skip",
        remedy="Repair or remove the damaged files, or set data.on_decode_error=skip.",
    )
    return images.in_memory() if fits_in_memory(len(names), shape, memory_gb) else images.checked()


def _test_role(parts: dict[Role, list[str]]) -> Role:
    return "test" if "test" in parts else "validation"


def _held_out(files: ImageFiles) -> list[str]:
    """Return the images of a folder or zip given for the test split."""
    parts = splits(files.place, files.names)
    return files.names if parts is None else parts[_test_role(parts)]


def _test_classes(files: ImageFiles, names: list[str], class_names: list[str], path: str) -> dict[str, str]:
    """Return the class of each test image, if the training images have classes."""
    class_of, found = classes(files, names, class_names) if class_names else ({}, [])
    unknown = sorted(set(found).difference(class_names))
    if unknown:
        raise UserError(
            f"{files.place}: expected the classes of {path}, got also {', '.join(unknown)}. Rename or remove them."
        )
    return class_of


def _report(place: Path, parts: dict[Role, list[str]], used: bool) -> None:
    """Report which folder is which split."""
    test = _test_role(parts) if used else None
    unused = [f"{role} ({len(parts[role])} images)" for role in parts if role not in ("train", test)]
    tested = "" if test is None else f", tests on {test} ({len(parts[test])})"
    ignored = f" and ignores {', '.join(sorted(unused))}" if unused else ""
    notice(
        f"{place}: its folders are splits, not classes; diffexp trains on train ({len(parts['train'])} images){tested}"
        f"{ignored}."
    )


def _share(names: list[str], split: str, test_fraction: float, path: str) -> list[str]:
    """Return the files of one split, by the rule of `load`."""
    if split == "test" and test_fraction == 0:
        raise UserError(f"{path}: expected a test split, got none. Set data.test_path or data.test_fraction.")
    share = [name for name in names if (derive_seed("test split", name) < test_fraction * 2**64) == (split == "test")]
    if not share:
        raise UserError(
            f"data.test_fraction: expected a fraction that leaves at least one of the {len(names)} images in {path} in "
            f"the {split} split, got {test_fraction}. {'Raise' if split == 'test' else 'Lower'} it."
        )
    return share
