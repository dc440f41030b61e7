"""Read the arrays of a .npz without executing anything in it, and without allocating what its headers only claim."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from numpy.lib import format as npy
from numpy.typing import NDArray

from diffexp.errors import EnvironmentFailure, UserError
from diffexp.system.memory import machine_memory
from diffexp.system.reading import open_regular, reading

_SUFFIX = ".npy"
_REPLACE = "Replace the file."
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def array_names(path: Path) -> list[str]:
    """Return the names of the arrays in a .npz; the errors are those of `read_arrays`."""
    with _opened(path, str(path), _REPLACE) as archive:
        return _names(archive)


def read_arrays(path: Path, *names: str, key: str = "", remedy: str = _REPLACE) -> dict[str, NDArray[Any]]:
    """Return arrays of a .npz by name.

    Args:
        path: the file.
        names: the arrays to read, of those in the file; none reads all.
        key: the config key that names the file, for messages.
        remedy: what to do about a damaged file, for messages.

    Raises:
        UserError: if the file is damaged or something else, or an array contains objects, has a shape that is
            negative or contradicts its size, or does not fit into memory.
        EnvironmentFailure: if the disk or the network fails.
    """
    with _opened(path, f"{key}: {path}" if key else str(path), remedy) as archive:
        return {name: _array(archive, name + _SUFFIX) for name in names or _names(archive)}


@contextmanager
def _opened(path: Path, source: str, remedy: str) -> Iterator[zipfile.ZipFile]:
    try:
        with reading(path), open_regular(path) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except EnvironmentFailure:
        raise
    except Exception as error:  # zipfile and numpy raise almost any exception for damaged headers
        what = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise UserError(f"{source}: expected a .npz of arrays, got: {what.rstrip('.')}. {remedy}") from error


def _names(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(_SUFFIX) for name in archive.namelist() if name.endswith(_SUFFIX)]


def _array(archive: zipfile.ZipFile, member: str) -> NDArray[Any]:
    with archive.open(member) as file:
        _check_header(file, member, archive.getinfo(member).file_size)
    with archive.open(member) as file:
        array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
        return array


def _check_header(file: IO[bytes], member: str, size: int) -> None:
    """Check that an array is what its header claims, as far as this is possible without reading it.

    Raises:
        ValueError: if it is not, or does not fit into memory.
    """
    try:
        shape, _, dtype = _HEADERS[npy.read_magic(file)](file)
    except Exception as error:  # numpy raises almost any exception for a damaged header
        raise ValueError(f"{member}: a damaged header") from error
    if dtype.hasobject:
        raise ValueError(f"{member}: an array of Python objects")
    claimed = dtype.itemsize
    for length in shape:
        claimed *= int(length)
    if min(shape, default=0) < 0:
        raise ValueError(f"{member}: the shape {shape}")
    if claimed != size - file.tell():
        raise ValueError(f"{member}: the shape {shape}, which takes {claimed} bytes, in {size - file.tell()} bytes")
    if claimed > (limit := machine_memory()):
        raise ValueError(
            f"{member}: an array of {claimed / 2**30:.3g} GiB on a machine with {limit / 2**30:.3g} GiB of memory"
        )
