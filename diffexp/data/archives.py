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

DATASET_JSON = "dataset.json"  # the labels in the zips and folders of StyleGAN and EDM
_NAMED = 3  # kinds of skipped files listed in a message
# Formats that PIL recognises but cannot decode by itself; for EPS it runs another program.
_NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})

State = tuple[str, int, int, int, int]


class ImageFiles(ABC):
    """The image files in a folder or zip.

    Args:
        place: the folder or zip.
        names: relative paths with "/", in any order. Hidden files are dropped: those with a dot at the start of their
            name or of a folder's name, and those in __MACOSX.

    Attributes:
        names: the files with a suffix that PIL reads, sorted by code point, which gives the same order on every
            machine.
        others: all other files, sorted.

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
            there = self._described() if self.others else "none"
            raise UserError(f"{place}: expected images that PIL can read, got {there}.")

    @abstractmethod
    def open(self, name: str) -> IO[bytes]:
        """Open one file for reading; the caller closes it. Safe in threads, and in processes forked in the meantime."""

    @abstractmethod
    def states(self, names: list[str]) -> list[State]:
        """Return what changes with the content of each file, or of the zip: name, size, mtime and ctime in ns, inode.

        The ctime and inode also reveal a replacement with the same size and mtime.
        """

    def report_skipped(self) -> None:
        """Warn once about files that are not read as images."""
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
    """The images in a folder and its sub-folders, following symbolic links."""

    def __init__(self, place: Path) -> None:
        names, seen = [], set()
        for directory, below, files in os.walk(place, followlinks=True):
            real = os.path.realpath(directory)
            if real in seen:  # a cyclic link
                below.clear()
                continue
            seen.add(real)
            names += [Path(directory, file).relative_to(place).as_posix() for file in files]
        super().__init__(place, names)

    def open(self, name: str) -> IO[bytes]:
        """Open one file for reading; the caller closes it."""
        return (self.place / name).open("rb")

    def states(self, names: list[str]) -> list[State]:
        """Return name, size, mtime, ctime and inode of each file."""
        return [(name, *_state(self.place / name)) for name in names]


class ZipFiles(ImageFiles):
    """The images in a zip, read without extracting anything to disk.

    A backslash in a name separates folders. If several members have the same name, the last one is read.

    Raises:
        UserError: if the file is not a zip, is damaged or encrypted, or contains no images.
    """

    def __init__(self, place: Path) -> None:
        self._opened: tuple[int, zipfile.ZipFile] | None = None
        try:
            with zipfile.ZipFile(place) as archive:
                members = [member for member in archive.infolist() if not member.filename.endswith(("/", "\\"))]
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{place}: expected a folder or an intact zip, got: {error}.") from error
        if any(member.flag_bits & 1 for member in members):
            raise UserError(
                f"{place}: expected an unencrypted zip, got an encrypted one. Unpack it, or zip it without a password."
            )
        self._members = {PurePosixPath(member.filename.replace("\\", "/")).as_posix(): member for member in members}
        if len(self._members) < len(members):
            twice = len(members) - len(self._members)
            notice(f"{place}: {twice} of {len(members)} files have the name of a later file; diffexp reads the last.")
        super().__init__(place, self._members)

    def open(self, name: str) -> IO[bytes]:
        """Open one member for reading; the caller closes it."""
        return self._archive().open(self._members[name])

    def states(self, names: list[str]) -> list[State]:
        """Return the name of each member with size, mtime, ctime and inode of the zip."""
        state = _state(self.place)
        return [(name, *state) for name in names]

    def _archive(self) -> zipfile.ZipFile:
        # A forked process shares the file position with its parent, so each process opens the zip itself.
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), zipfile.ZipFile(self.place)
        return self._opened[1]

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_opened": None}


def open_files(place: Path) -> ImageFiles:
    """Return the image files of a folder or zip, after a warning that counts the files that are not images.

    Raises:
        UserError: if the path does not exist, is neither a folder nor a zip, or contains no images.
    """
    if not place.exists():
        raise UserError(f"{place}: expected a folder or a zip, got none. Check the path.")
    files = FolderFiles(place) if place.is_dir() else ZipFiles(place)
    files.report_skipped()
    return files


@cache
def readable_suffixes() -> frozenset[str]:
    """Return the lower-case suffixes of the files that the installed PIL decodes."""
    suffixes = Image.registered_extensions().items()
    # MPO (stereo cameras) is opened as JPEG, because its files start like one.
    decoded = (Image.OPEN.keys() | {"MPO"}) - _NOT_DECODED
    return frozenset(suffix for suffix, kind in suffixes if kind in decoded)


def _state(path: Path) -> tuple[int, int, int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _is_visible(name: str) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)
