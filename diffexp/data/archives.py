"""The image files of a folder or a zip, by name."""

import os
import zipfile
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO

from PIL import Image

from diffexp.data.notices import notice
from diffexp.errors import UserError

DATASET_JSON = "dataset.json"  # the labels, in the zips and folders of StyleGAN and EDM
_NAMED = 3  # kinds of skipped files that a message names
# Formats that PIL recognises but cannot decode by itself; for EPS it starts another program.
_NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})

State = tuple[str, int, int, int, int]


class ImageFiles(ABC):
    """Image files below a place.

    Args:
        place: the folder or zip.
        names: relative paths with "/", in any order. Hidden ones are dropped: below a folder or of a name that begins
            with a dot, or below __MACOSX.

    Attributes:
        names: those that PIL reads by their suffix, sorted by code point, so the same on every machine.
        others: the names of all other files, sorted.

    Raises:
        UserError: if there is no image.
    """

    def __init__(self, place: Path, names: Iterable[str]) -> None:
        self.place = place
        visible = sorted(filter(_is_visible, names))
        suffixes = readable_suffixes()
        self.names = [name for name in visible if _suffix(name) in suffixes]
        self.others = [name for name in visible if _suffix(name) not in suffixes]
        if not self.names:
            there = f"; it holds {self._described()}" if self.others else ""
            raise UserError(f"{place} holds no images that PIL can read{there}.")

    @abstractmethod
    def open(self, name: str) -> IO[bytes]:
        """One file, to be read and closed. Callable from several threads, and from processes forked meanwhile."""

    @abstractmethod
    def states(self, names: list[str]) -> list[State]:
        """What changes with the content of the files, or of the zip: name, size, mtime and ctime in ns, inode.

        The ctime and the inode also give away a copy that kept size and mtime.
        """

    def report_skipped(self) -> None:
        """Warn, once, of files that are not read as images."""
        skipped = [name for name in self.others if PurePosixPath(name).name != DATASET_JSON]
        if skipped:
            notice(f"{self.place}: diffexp skips files that PIL cannot read: {self._described()}.")

    def _described(self) -> str:
        kinds = defaultdict(list)
        for name in self.others:
            if PurePosixPath(name).name != DATASET_JSON:
                kinds[_suffix(name)].append(name)
        often = sorted(kinds.values(), key=len, reverse=True)
        text = ", ".join(f"{len(kind)} like {kind[0]}" for kind in often[:_NAMED])
        return text + (f" and {sum(map(len, often[_NAMED:]))} more" if often[_NAMED:] else "")


class FolderFiles(ImageFiles):
    """The images of a folder and its sub-folders; symbolic links are followed."""

    def __init__(self, place: Path) -> None:
        names, seen = [], set()
        for directory, below, files in os.walk(place, followlinks=True):
            real = os.path.realpath(directory)
            if real in seen:  # a link back, which would go round for ever
                below.clear()
                continue
            seen.add(real)
            names += [Path(directory, file).relative_to(place).as_posix() for file in files]
        super().__init__(place, names)

    def open(self, name: str) -> IO[bytes]:
        """See `ImageFiles.open`."""
        return (self.place / name).open("rb")

    def states(self, names: list[str]) -> list[State]:
        """See `ImageFiles.states`."""
        return [(name, *_state(self.place / name)) for name in names]


class ZipFiles(ImageFiles):
    """The images of a zip, read from it without extracting anything to disk.

    A backslash in a name separates folders. Of several members of one name the last counts.

    Raises:
        UserError: if it is no zip, damaged or encrypted, or holds no images.
    """

    def __init__(self, place: Path) -> None:
        self._opened: tuple[int, zipfile.ZipFile] | None = None
        try:
            with zipfile.ZipFile(place) as archive:
                members = [member for member in archive.infolist() if not member.filename.endswith(("/", "\\"))]
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{place} is neither a folder nor an intact zip: {error}.") from error
        if any(member.flag_bits & 1 for member in members):
            raise UserError(f"{place} is encrypted; unpack it, or pack it again without a password.")
        self._members = {PurePosixPath(member.filename.replace("\\", "/")).as_posix(): member for member in members}
        if len(self._members) < len(members):
            twice = len(members) - len(self._members)
            notice(f"{place}: {twice} of {len(members)} files have the name of a later one; diffexp reads the last.")
        super().__init__(place, self._members)

    def open(self, name: str) -> IO[bytes]:
        """See `ImageFiles.open`."""
        return self._archive().open(self._members[name])

    def states(self, names: list[str]) -> list[State]:
        """See `ImageFiles.states`."""
        state = _state(self.place)
        return [(name, *state) for name in names]

    def _archive(self) -> zipfile.ZipFile:
        # a forked process shares the file's position with its parent, so each process opens its own
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), zipfile.ZipFile(self.place)
        return self._opened[1]

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_opened": None}


def open_files(place: Path) -> ImageFiles:
    """The image files of a folder or zip; a warning counts the files that are no images.

    Raises:
        UserError: if there is no such path, or it is neither, or it holds no images.
    """
    if not place.exists():
        raise UserError(f"there is no folder or zip {place}.")
    files = FolderFiles(place) if place.is_dir() else ZipFiles(place)
    files.report_skipped()
    return files


@cache
def readable_suffixes() -> frozenset[str]:
    """The suffixes, in lower case, of the files that the installed PIL decodes."""
    suffixes = Image.registered_extensions().items()
    # MPO, of stereo cameras, has no opener of its own: its files begin as a JPEG does
    decoded = (Image.OPEN.keys() | {"MPO"}) - _NOT_DECODED
    return frozenset(suffix for suffix, kind in suffixes if kind in decoded)


def _state(path: Path) -> tuple[int, int, int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _is_visible(name: str) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)
