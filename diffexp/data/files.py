"""The image files of a folder or a zip, by name."""

import os
import zipfile
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath
from typing import IO

from diffexp.errors import UserError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


class ImageFiles(ABC):
    """Image files below a place.

    Args:
        place: the folder or zip.
        names: relative paths with "/", in any order; those that are not visible images are dropped.

    Attributes:
        names: sorted by code point, so the same on every machine.

    Raises:
        UserError: if no image is left.
    """

    def __init__(self, place: Path, names: list[str]) -> None:
        self.place = place
        self.names = sorted(filter(_is_visible_image, names))
        if not self.names:
            raise UserError(f"{place} holds no images ({', '.join(sorted(SUFFIXES))}).")

    @abstractmethod
    def open(self, name: str) -> IO[bytes]:
        """One file, to be read and closed. Callable from several threads, and from processes forked meanwhile."""

    @abstractmethod
    def size(self, name: str) -> int:
        """A file's length in bytes, before any compression by the zip."""


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

    def size(self, name: str) -> int:
        """See `ImageFiles.size`."""
        return (self.place / name).stat().st_size


class ZipFiles(ImageFiles):
    """The images of a zip, read from it without extracting anything to disk.

    Raises:
        UserError: if it is no zip, damaged or encrypted, or holds no images.
    """

    def __init__(self, place: Path) -> None:
        self._opened: tuple[int, zipfile.ZipFile] | None = None
        try:
            with zipfile.ZipFile(place) as archive:
                members = [member for member in archive.infolist() if not member.is_dir()]
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"{place} is neither a folder nor an intact zip: {error}.") from error
        if any(member.flag_bits & 1 for member in members):
            raise UserError(f"{place} is encrypted; unpack it, or pack it again without a password.")
        super().__init__(place, [member.filename for member in members])

    def open(self, name: str) -> IO[bytes]:
        """See `ImageFiles.open`."""
        return self._archive().open(name)

    def size(self, name: str) -> int:
        """See `ImageFiles.size`."""
        return self._archive().getinfo(name).file_size

    def _archive(self) -> zipfile.ZipFile:
        # a forked process shares the file's position with its parent, so each process opens its own
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), zipfile.ZipFile(self.place)
        return self._opened[1]

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_opened": None}


def open_files(place: Path) -> ImageFiles:
    """The image files of a folder or zip.

    Raises:
        UserError: if there is no such path, or it is neither, or it holds no images.
    """
    if not place.exists():
        raise UserError(f"there is no folder or zip {place}.")
    return FolderFiles(place) if place.is_dir() else ZipFiles(place)


def _is_visible_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden
