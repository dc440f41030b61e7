"""The places of a run's training images: the order of the data, which stays when files are lost or damaged.

The order is a function of the number of images. So a run that resumes without some of its files gives the next image to
each place that lost its own, and all others keep theirs.
"""

import zlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diffexp.data.image_files import StoredImages
from diffexp.data.images import ImageSet, digests_of, sampled
from diffexp.data.origin import CANNOT_DECODE
from diffexp.errors import UserError

_SEPARATOR = "\0"  # no file name contains it


def recorded(images: ImageSet) -> dict[str, Any]:
    """Return the places of images that are files, as plain data for a checkpoint; {} for other images."""
    if images.names is None:
        return {}
    return {
        "names": _packed(images.names),
        "skipped": _packed(images.origin.skipped.get(CANNOT_DECODE, ())),
        "digests": list(images.brief_fingerprint().digests),
    }


def only_lost(images: ImageSet, record: Mapping[str, Any]) -> bool:
    """Return whether a set differs from the recorded one only in files that are gone, or were skipped before.

    Of the up to 1000 images with a recorded digest, those that are still there must have the same pixels.
    """
    if images.names is None or not record:
        return False
    names = _unpacked(record["names"])
    if not set(images.names) <= {*names, *_unpacked(record["skipped"])}:
        return False
    digests = dict(zip((names[at] for at in sampled(len(names)).tolist()), record["digests"], strict=True))
    there = [(at, digests[name]) for at, name in enumerate(images.names) if name in digests]
    found = digests_of(images.fetch(torch.tensor([at for at, _ in there], dtype=torch.int64)))
    return found == [digest for _, digest in there]


def recorded_names(record: Mapping[str, Any]) -> list[str]:
    """Return the names of the recorded files, in order."""
    return _unpacked(record["names"])


def in_places(images: ImageSet, names: list[str]) -> ImageSet:
    """Return a set with a place for each of `names`.

    The place of a file that is lost gets the next image of `names` that is there, the first one after the last.

    Raises:
        UserError: if none is there.
    """
    assert images.names is not None
    numbers = {name: number for number, name in enumerate(images.names)}
    there = [place for place, name in enumerate(names) if name in numbers]
    if not there:
        raise UserError("data: expected some of the run's training images, got none. Restore them.")
    indices = torch.tensor(
        [numbers[names[there[bisect_left(there, place) % len(there)]]] for place in range(len(names))]
    )
    if isinstance(images, StoredImages):
        return images.in_places(names, indices)
    placed = images.some(indices)
    placed.names = names
    return placed


def _packed(names: Sequence[str]) -> Tensor:
    """Compress names to uint8 (L,), which a checkpoint may contain."""
    data = zlib.compress(_SEPARATOR.join(names).encode("utf-8", "surrogateescape"))
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _unpacked(packed: Tensor) -> list[str]:
    text = zlib.decompress(packed.numpy().tobytes()).decode("utf-8", "surrogateescape")
    return text.split(_SEPARATOR) if text else []
