"""What diffexp found in stored images, kept in its cache so that they are decoded once and not at every start."""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import PIL
from PIL import features

from diffexp.data import decode, depth
from diffexp.data.archives import State
from diffexp.data.notices import notice
from diffexp.system.files import atomic_write, cache_folder, sha256

# Seconds within which a file may change twice without its times showing it, on the coarsest file systems.
SETTLING = 2.0


@dataclass(frozen=True)
class Record:
    """What decoding a set once has shown.

    Attributes:
        pixels: the fingerprint of the images that can be decoded.
        failures: why files cannot be decoded, by name.
        doubts: the name of one file for each reason to doubt the range of its values.
        lasting: whether it holds while the files are as they are: reading them did not fail for other reasons.
    """

    pixels: str
    failures: dict[str, str] = field(default_factory=dict)
    doubts: dict[str, str] = field(default_factory=dict)
    lasting: bool = True


def cached_record(
    states: Callable[[], list[State]], image_shape: tuple[int, int, int], examine: Callable[[], Record]
) -> Record:
    """The record of a set: from the cache if every file is as it was, otherwise from `examine`.

    Of several processes that need the same record, one examines and the others wait for it. diffexp replaces a damaged
    record. It keeps none of files that changed in the last seconds or meanwhile.

    Args:
        states: of the files now; see `ImageFiles.states`.
        image_shape: (C, H, W) that the files are converted to.
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
        newest = max(ctime for _, _, _, ctime, _ in before) / 1e9  # an mtime may be anything
        settled = time.time() - newest > SETTLING
        record = examine()
        if settled and record.lasting and states() == before:
            _write(path, key, record)
    return record


def _rules() -> tuple[str, ...]:
    """What turns bytes into pixels: our rules, and PIL with its decoders."""
    ours = [sha256(Path(str(module.__file__))) for module in (decode, depth)]
    decoders = [*features.get_supported_codecs(), *(name for name in ("webp", "avif") if name in features.modules)]
    return (*ours, PIL.__version__, *(f"{name} {features.version(name)}" for name in decoders))


def _read(path: Path, key: str) -> Record | None:
    try:
        content = json.loads(path.read_text())
        if content["check"] == _check(key, content["found"]):
            return Record(**content["found"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _write(path: Path, key: str, record: Record) -> None:
    found = asdict(record)
    try:
        with atomic_write(path) as file:
            file.write(json.dumps({"check": _check(key, found), "found": found}).encode())
    except OSError as error:
        notice(f"{path}: cannot be written ({error.strerror}), so diffexp decodes all images at each start")


def _check(key: str, found: object) -> str:
    return hashlib.sha256((key + json.dumps(found, sort_keys=True)).encode()).hexdigest()


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Hold the lock of a record, where the file system has locks; a crash leaves it free."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:  # the record cannot be written either, which is where diffexp warns
        yield
        return
    try:
        with suppress(OSError):
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                notice(f"{path}: another process decodes these images; waiting for what it finds")
                fcntl.lockf(lock, fcntl.LOCK_EX)
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(lock)
