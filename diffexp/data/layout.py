"""Interpret the folders around images: as splits, as classes, or as neither."""

import json
import os
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from diffexp.data.archives import DATASET_JSON, ImageFiles
from diffexp.errors import EnvironmentFailure, UserError
from diffexp.system.notices import notice

Role = Literal["train", "test", "validation"]

# The words that Hugging Face's image folders read as splits, in any case, and neutral words next to them, as in
# train2017, test_set, val-images, seg_train.
_ROLES: dict[str, Role] = {
    **dict.fromkeys(("train", "training", "trainset", "trainingset"), "train"),
    **dict.fromkeys(("test", "testing", "testset", "eval", "evaluation"), "test"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "valset", "validationset", "holdout"), "validation"),
}
_NEUTRAL = frozenset(("set", "data", "dataset", "image", "images", "img", "imgs", "photos", "split", "seg"))
# Digits of a folder, and smallest number of digits of an image, in StyleGAN's and EDM's zips.
_INDEX_FOLDER, _INDEX = 5, 8
_NAMED = 5


def splits(place: Path, names: list[str]) -> dict[Role, list[str]] | None:
    """Return the images by split if the first-level folders are splits, otherwise None.

    They are splits if one is called train or training, and another test or validation, in any of the usual words.
    Folders that contain all the images are ignored.

    Args:
        place: the folder or zip, for messages.
        names: the images in it.

    Raises:
        UserError: if there are images outside the folders of the splits, two folders of one role or no train folder, or
            if the splits are below the classes.
    """
    around = len(_common(names))
    below: dict[str, list[str]] = defaultdict(list)
    for name in names:
        parts = PurePosixPath(name).parts
        below[parts[around] if len(parts) > around + 1 else ""].append(name)
    folders = {folder: role for folder in below if (role := _role(folder))}
    others = sorted(below.keys() - folders.keys())
    roles = set(folders.values())
    if not others and len(folders) > len(roles):
        raise UserError(f"{place}: expected one folder for each split, got {_listed(folders)}. Merge or remove some.")
    if "train" not in roles and not others:
        raise UserError(
            f"{place}: expected a train folder next to {_listed(folders)}, got none. "
            "Set data.path to the folder to read."
        )
    if "train" not in roles or len(roles) == 1:
        _refuse_splits_below_classes(place, below, around)
        if "train" in roles and len(folders) < len(below) and "" not in below:
            notice(
                f"{place}: diffexp reads {_listed(sorted(below))} as classes. If {next(iter(folders))} is a split, "
                "set data.path to the folder to read."
            )
        return None
    if others:
        more = below[""][0] if others == [""] else _listed(filter(None, others))
        raise UserError(
            f"{place}: expected only the splits {_listed(folders)}, or only classes, got {more} as well. "
            "Move one of the two elsewhere."
        )
    return {role: below[folder] for folder, role in folders.items()}


def _role(folder: str) -> Role | None:
    """Return the split that a folder's name denotes: by one word for it, and no others except neutral ones."""
    words = [word for word in re.split(r"[^a-z]+", folder.casefold()) if word and word not in _NEUTRAL]
    return _ROLES.get(words[0]) if len(words) == 1 else None


def classes(files: ImageFiles, names: list[str], known: list[str] | None = None) -> tuple[dict[str, str], list[str]]:
    """Return the class of each image, and the names of the classes in order; both are empty for unlabelled images.

    - A dataset.json in a folder that contains all the images holds the labels: {"labels": [[file, number], …]}, as
      StyleGAN and EDM write it. The classes are in the order of the numbers. {"labels": null} means that there are
      none.
    - Otherwise, if every image is in a sub-folder, the first-level sub-folders are the classes, sorted by name. Folders
      that contain all the images are ignored. So are folders that only number the images, as in FFHQ, StyleGAN and EDM.

    Args:
        files: the folder or zip.
        names: the images of it to classify.
        known: the classes of the training images. A folder with one of these names is a class even if it is the only
            one.

    Raises:
        UserError: if dataset.json is damaged, lacks an image, or has a label that is not the number of a class.
    """
    numbers = _labels_of_json(files, names)
    if numbers is not None:
        ordered = sorted(set(numbers.values()))
        if known is None and ordered and ordered[-1] != len(ordered) - 1:
            notice(
                f"{files.place}: the labels in {DATASET_JSON} have gaps: {_listed(map(str, ordered))}; diffexp numbers "
                f"the {len(ordered)} classes from 0 in this order."
            )
        return {name: str(number) for name, number in numbers.items()}, [str(number) for number in ordered]
    parts = [PurePosixPath(name).parts for name in names]
    common = _common(names)
    around = next((depth for depth, folder in enumerate(common) if folder in (known or ())), len(common))
    loose = sum(len(path) == around + 1 for path in parts)
    if loose:
        if loose < len(names):
            notice(
                f"{files.place}: {loose} of {len(names)} images are in no sub-folder, so diffexp reads no classes from "
                "the sub-folders."
            )
        return {}, []
    numbered = [path for path in parts if _is_number(path[around], PurePosixPath(path[-1]).stem)]
    if len(numbered) == len(parts):
        return {}, []
    if len(numbered) > len(parts) / 2:
        others = ["/".join(path) for path in parts if path not in numbered]
        raise UserError(
            f"{files.place}: expected only folders that number the images, such as {numbered[0][around]}, or only "
            f"classes, got {_listed(others)} as well. Move one of the two elsewhere."
        )
    of = {name: path[around] for name, path in zip(names, parts, strict=True)}
    return of, sorted(set(of.values()))


def _labels_of_json(files: ImageFiles, names: list[str]) -> dict[str, int] | None:
    """Return the label of each image from the nearest dataset.json above them; {} if it declares no labels."""
    common = _common(names)
    candidates = ["/".join((*common[:depth], DATASET_JSON)) for depth in range(len(common), -1, -1)]
    there = {name for name in files.others if name.endswith(DATASET_JSON)}
    found = next((each for each in candidates if each in there), None)
    if found is None:
        return None
    source = f"{files.place}: {found}"
    try:
        content = json.loads(files.read(found))
    except EnvironmentFailure:
        raise
    except Exception as error:  # zipfile raises almost any exception for a damaged member
        raise UserError(f"{source}: expected JSON, got: {error}. Repair or remove it.") from error
    if not isinstance(content, dict) or "labels" not in content:
        notice(f'{source} has no "labels", so diffexp does not use it.')
        return None
    if content["labels"] is None:
        return {}
    labels = _entries(content["labels"], source)
    folder = found.removesuffix(DATASET_JSON)
    missing = [name for name in names if name.removeprefix(folder) not in labels]
    if missing:
        raise UserError(
            f"{source}: labels: expected one for every image, got none for {_listed(missing)} ({len(missing)} of "
            f"{len(names)} images). Add them, or remove the images."
        )
    return {name: _number(labels[name.removeprefix(folder)], name, source) for name in names}


def _entries(labels: Any, source: str) -> dict[str, Any]:
    try:
        if not isinstance(labels, list):
            raise TypeError
        entries = [(PurePosixPath(str(name).replace("\\", "/")).as_posix(), label) for name, label in labels]
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{source}: labels: expected [[file, number], …] or null, got something else. Repair the file."
        ) from error
    found: dict[str, Any] = {}
    for name, label in entries:
        if found.setdefault(name, label) != label:
            raise UserError(f"{source}: labels: {name}: expected one label, got {found[name]} and {label}. Remove one.")
    return found


def _number(label: Any, name: str, source: str) -> int:
    if isinstance(label, bool) or not isinstance(label, int | float) or label < 0 or label != label // 1:
        raise UserError(
            f"{source}: labels: {name}: expected a class, an integer >= 0, got {json.dumps(label)[:60]}. diffexp "
            'supports neither several classes for an image nor vectors; set "labels" to null to train without labels.'
        )
    return int(label)


def _is_number(folder: str, stem: str) -> bool:
    """Return whether a folder's name is the start of the image's number.

    Examples: 00012/img00012345 (StyleGAN, EDM), 00012/000120034 (img2dataset), 12000/12345 (FFHQ).
    """
    digits = stem.removeprefix("img")
    if len(folder) != _INDEX_FOLDER or not (folder + digits).isdecimal():
        return False
    if len(digits) >= _INDEX:
        return digits.startswith(folder)
    return len(digits) == _INDEX_FOLDER and digits[:2] + "000" == folder


def _refuse_splits_below_classes(place: Path, below: dict[str, list[str]], around: int) -> None:
    for folder, names in below.items():
        inner = {PurePosixPath(name).parts[around + 1] for name in names if PurePosixPath(name).parts[around + 2 :]}
        roles = {role for each in inner if (role := _role(each))}
        if "train" in roles and len(roles) > 1:
            raise UserError(
                f"{place}: expected splits above classes, as train/{folder}, got {_listed(sorted(inner))} in {folder}. "
                "Move them, or set data.path to one folder to read."
            )


def _common(names: list[str]) -> tuple[str, ...]:
    """Return the folders that contain all the images."""
    return tuple(os.path.commonprefix([PurePosixPath(name).parts[:-1] for name in names]))  # noqa: RUF071


def _listed(words: Any) -> str:
    first = list(words)
    more = f", … ({len(first) - _NAMED} more)" if len(first) > _NAMED else ""
    return ", ".join(first[:_NAMED]) + more
