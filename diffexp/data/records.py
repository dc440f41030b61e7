"""Cached results of decoding stored images, so that they are decoded once and not at every start."""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import PIL
from PIL import features

from diffexp.data import decode, depth
from diffexp.data.archives import State
from diffexp.data.origin import Size
from diffexp.system.files import atomic_write, cache_folder, sha256
from diffexp.system.locks import open_lock
from diffexp.system.notices import notice
from diffexp.system.reading import open_regular

# Coarsest time stamps of file systems, in seconds: a second change within them may leave the times unchanged.
SETTLING = 2.0


@dataclass(frozen=True)
class Record:
    """The result of decoding a set once.

    Attributes:
        pixels: fingerprint of the images that can be decoded.
        failures: by name of the file, why it cannot be decoded.
        doubts: by reason to doubt the range of values, the name of one file.
        sizes: (width, height) of the smallest and the largest image before conversion.
        lasting: whether the record is valid as long as the files do not change: no read failed for other reasons.
    """

    pixels: str
    failures: dict[str, str] = field(default_factory=dict)
    doubts: dict[str, str] = field(default_factory=dict)
    sizes: list[Size] = field(default_factory=list)
    lasting: bool = True


def cached_record(
    states: Callable[[], list[State]], image_shape: tuple[int, int, int], examine: Callable[[], Record]
) -> Record:
    """Return the record of a set: from the cache if no file has changed, otherwise from `examine`.

    If several processes need the same record, one examines the files and the others wait. diffexp replaces a damaged
    record. It keeps no record of files that changed in the last seconds or in the meantime.

    Args:
        states: returns the current states of the files; see `ImageFiles.states`.
        image_shape: (C, H, W) of the decoded images.
        examine: decodes all of them.
    """
    before = states()
    key = hashlib.sha256(repr((_rules(), image_shape, before)).encode()).hexdigest()
    path = cache_folder() / "images" / f"{key[:32]}.json"
    if (known := _read(path, key)) is not None:
        return known
    with _one_at_a_time(path.with_suffix(".lock")):
        if (known := _read(path, key)) is not None:
            return known
        newest = max(ctime for _, _, _, ctime, _ in before) / 1e9  # an mtime can be arbitrary
        settled = time.time() - newest > SETTLING
        record = examine()
        if settled and record.lasting and states() == before:
            _write(path, key, record)
    return record


def _rules() -> tuple[str, ...]:
    """Return what determines the conversion from bytes to pixels: diffexp's rules, and PIL with its decoders."""
    ours = [sha256(Path(str(module.__file__))) for module in (decode, depth)]
    decoders = [*features.get_supported_codecs(), *(name for name in ("webp", "avif") if name in features.modules)]
    return (*ours, PIL.__version__, *(f"{name} {features.version(name)}" for name in decoders))


def _read(path: Path, key: str) -> Record | None:
    try:
        with open_regular(path) as file:
            content = json.load(file)
        if content["check"] == _check(key, content["found"]):
            record = Record(**content["found"])
            return replace(record, sizes=[(width, height) for width, height in record.sizes])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _write(path: Path, key: str, record: Record) -> None:
    found = asdict(record)
    try:
        with atomic_write(path) as file:
            file.write(json.dumps({"check": _check(key, found), "found": found}).encode())
    except OSError as error:
        notice(f"{path}: cannot be written ({error.strerror}), so diffexp decodes all images at each start.")


def _check(key: str, found: object) -> str:
    return hashlib.sha256((key + json.dumps(found, sort_keys=True)).encode()).hexdigest()


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Hold the lock of a record, if the file system supports locks; the kernel releases it after a crash."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open_lock(path)
    except OSError:  # the record cannot be written either; diffexp warns there
        yield
        return
    try:
        with suppress(OSError):
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                notice(f"{path}: another process is decoding these images; diffexp waits for its result.")
                fcntl.lockf(lock, fcntl.LOCK_EX)
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(lock)
