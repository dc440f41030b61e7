"""Problems of the paths of datasets that need no image decoded."""

import os
import stat
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

_MOST = 10_000  # files and folders to look at; a larger folder counts as one with images
_ASSUMED = "image.png"


def download_folder_problem(path: Path) -> str | None:
    """Return the problem of a folder to which a dataset is downloaded, which need not exist, or None."""
    return f"expected a folder, got the file {path}." if path.is_file() else None


def image_folder_problem(path: Path) -> str | None:
    """Return the problem of a folder or zip of images, or None, which is cached until the path changes."""
    expected = f"expected a folder or zip of images, got {path}"
    try:
        state = path.stat()
        _require_images(path, state.st_mode, state.st_mtime_ns)
    except FileNotFoundError:
        return f"{expected}, which does not exist."
    except _UnsuitableError as error:
        return f"{expected}, which {error}."
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        return f"{expected}, which cannot be read: {getattr(error, 'strerror', None) or error}."
    return None


class _UnsuitableError(Exception):
    pass


@lru_cache(maxsize=64)
def _require_images(path: Path, mode: int, mtime_ns: int) -> None:
    if stat.S_ISDIR(mode):
        names = _files(path)
    elif stat.S_ISREG(mode) and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = iter(archive.namelist())
    else:
        raise _UnsuitableError("is neither")
    if not any(map(_may_be_image, names)):
        raise _UnsuitableError("has no images that PIL can read")


def _files(folder: Path) -> Iterator[str]:
    seen = 0
    for _, below, names in os.walk(folder, followlinks=True, onerror=_raise):
        below[:] = [name for name in below if not name.startswith(".")]
        seen += 1 + len(names)
        yield from names if seen < _MOST else [_ASSUMED]


def _raise(error: OSError) -> None:
    raise error


def _may_be_image(name: str) -> bool:
    from PIL import Image  # only for folders of images: it takes a tenth of a second

    plain = name.replace("\\", "/").rpartition("/")[2]
    suffix = os.path.splitext(plain)[1].lower()
    return not plain.startswith(".") and suffix in Image.registered_extensions()
