"""The image files of a folder or a zip, by name."""

import errno
import os
import stat
import zipfile
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO

from PIL import Image

from diffexp.errors import EnvironmentFailure, UserError
from diffexp.system.notices import notice
from diffexp.system.reading import ReadFailure, open_regular, reading

DATASET_JSON = "dataset.json"  # the labels in the zips and folders of StyleGAN and EDM
_NAMED = 3  # kinds of skipped files listed in a message
# Bytes of a file that are read; PIL refuses images with more pixels than fit into them.
_LARGEST = 2**30
_TOO_LARGE = "larger than 1 GiB"
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

    def read(self, name: str) -> bytes:
        """Return the content of one file. Safe in threads, and in processes forked in the meantime.

        Raises:
            EnvironmentFailure: if the disk or the network fails, or the place itself is gone.
            Exception: of any type, if the file is gone, damaged, larger than 1 GiB or not a regular file.
        """
        with self.open(name) as file:
            return file.read()

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open one file; the errors are those of `read`."""
        with reading(self.place), self._open(name) as file:
            yield file

    @abstractmethod
    def _open(self, name: str) -> IO[bytes]:
        """Open one file of at most 1 GiB for reading."""

    @abstractmethod
    def states(self, names: list[str]) -> list[State]:
        """Return what changes with the content of each file, or of the zip: name, size, mtime and ctime in ns, inode.

        The ctime and inode also reveal a replacement with the same size and mtime.
        """

    def report_skipped(self) -> None:
        """Warn once about files that are not read as images."""
        if self.no_images:
            notice(f"{self.place}: diffexp skips files that PIL cannot read: {self._described()}.")

    @property
    def no_images(self) -> list[str]:
        """The files that are neither images nor labels."""
        return [name for name in self.others if PurePosixPath(name).name != DATASET_JSON]

    def _described(self) -> str:
        kinds = defaultdict(list)
        for name in self.no_images:
            kinds[_suffix(name)].append(name)
        often = sorted(kinds.values(), key=len, reverse=True)
        text = ", ".join(f"{len(kind)} like {kind[0]}" for kind in often[:_NAMED])
        return text + (f" and {sum(map(len, often[_NAMED:]))} more" if often[_NAMED:] else "")


class FolderFiles(ImageFiles):
    """The images in a folder and its sub-folders, following symbolic links."""

    def __init__(self, place: Path) -> None:
        names, seen = [], set()
        try:
            with reading(place):
                for directory, below, files in os.walk(place, onerror=_raise, followlinks=True):
                    real = os.path.realpath(directory)
                    if real in seen:  # a cyclic link
                        below.clear()
                        continue
                    seen.add(real)
                    names += [Path(directory, file).relative_to(place).as_posix() for file in files]
        except OSError as error:
            raise UserError(f"{error.filename}: expected a readable folder, got: {error.strerror}.") from error
        super().__init__(place, names)

    def _open(self, name: str) -> IO[bytes]:
        try:
            file = open_regular(self.place / name)
        except FileNotFoundError:
            if not (self.place / name).parent.is_dir() or not any(self.place.iterdir()):
                raise ReadFailure(
                    f"{(self.place / name).parent}: the folder has vanished. Restore or mount it, then try again."
                ) from None
            raise
        if os.fstat(file.fileno()).st_size > _LARGEST:
            file.close()
            raise ValueError(_TOO_LARGE)
        return file

    def states(self, names: list[str]) -> list[State]:
        """Return name, size, mtime, ctime and inode of each file; those of a file that is gone are 0."""
        with reading(self.place):
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
            with reading(place), open_regular(place) as file, zipfile.ZipFile(file) as archive:
                members = [member for member in archive.infolist() if not member.filename.endswith(("/", "\\"))]
        except EnvironmentFailure:
            raise
        except Exception as error:  # zipfile raises almost any exception for damaged headers
            what = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
            raise UserError(f"{place}: expected a folder or an intact zip, got: {what.rstrip('.')}.") from error
        if any(member.flag_bits & 1 for member in members):
            raise UserError(
                f"{place}: expected an unencrypted zip, got an encrypted one. Unpack it, or zip it without a password."
            )
        self._members = {PurePosixPath(member.filename.replace("\\", "/")).as_posix(): member for member in members}
        if len(self._members) < len(members):
            twice = len(members) - len(self._members)
            notice(f"{place}: {twice} of {len(members)} files have the name of a later file; diffexp reads the last.")
        super().__init__(place, self._members)

    def _open(self, name: str) -> IO[bytes]:
        if name not in self._members:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        member = self._members[name]
        if member.file_size > _LARGEST:
            raise ValueError(_TOO_LARGE)
        return self._archive().open(member)

    def states(self, names: list[str]) -> list[State]:
        """Return the name of each member with size, mtime, ctime and inode of the zip."""
        with reading(self.place):
            state = _state(self.place)
        return [(name, *state) for name in names]

    def _archive(self) -> zipfile.ZipFile:
        # A forked process shares the file position with its parent, so each process opens the zip itself.
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                self._opened = os.getpid(), zipfile.ZipFile(open_regular(self.place))
            except FileNotFoundError:
                raise ReadFailure(
                    f"{self.place}: the file has vanished. Restore or mount it, then try again."
                ) from None
        return self._opened[1]

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_opened": None}


def open_files(place: Path) -> ImageFiles:
    """Return the image files of a folder or zip, after a warning that counts the files that are not images.

    Raises:
        UserError: if the path does not exist, is neither a folder nor a zip, or contains no images.
    """
    try:
        with reading(place):
            mode = place.stat().st_mode
    except OSError as error:
        raise UserError(f"{place}: expected a folder or a zip, got: {error.strerror}. Check the path.") from error
    files = FolderFiles(place) if stat.S_ISDIR(mode) else ZipFiles(place)
    files.report_skipped()
    return files


@cache
def readable_suffixes() -> frozenset[str]:
    """Return the lower-case suffixes of the files that the installed PIL decodes."""
    suffixes = Image.registered_extensions().items()
    # MPO (stereo cameras) is opened as JPEG, because its files start like one.
    decoded = {*readable_formats(), "MPO"}
    return frozenset(suffix for suffix, kind in suffixes if kind in decoded)


@cache
def readable_formats() -> tuple[str, ...]:
    """Return PIL's names of the formats that it decodes by itself: what `Image.open` may take a file for."""
    Image.init()
    return tuple(kind for kind in Image.OPEN if kind not in _NOT_DECODED)


def _raise(error: OSError) -> None:
    raise error


def _state(path: Path) -> tuple[int, int, int, int]:
    try:
        state = path.stat()
    except FileNotFoundError:  # a link to nothing, or removed meanwhile; decoding it will fail
        return 0, 0, 0, 0
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _is_visible(name: str) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)
