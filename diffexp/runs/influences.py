"""Files of influences: what `diffexp.statistics` needs to pair the scores of images from the same seeds."""

import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from diffexp.statistics.influence import Influence
from diffexp.system.files import atomic_write
from diffexp.system.notices import warn_once
from diffexp.system.reading import open_regular

# Errors of a .npz with changed bytes.
_DAMAGE = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)
_PARTS = ".parts"  # ending of the name of an array's `Influence.parts`


def write_influences(path: Path, influences: Mapping[str, Influence]) -> None:
    """Write influences by name to a .npz, atomically.

    Raises:
        OSError: if the file cannot be written.
    """
    arrays = {name: each.values for name, each in influences.items()}
    arrays |= {f"{name}{_PARTS}": np.array(each.parts) for name, each in influences.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy-stubs take a keyword for allow_pickle


def read_influences(path: Path) -> dict[str, Influence]:
    """Read a file of `write_influences`; {} without one. diffexp warns of a damaged file and continues without it."""
    try:
        with open_regular(path) as file, np.load(file, allow_pickle=False) as arrays:
            names = [name for name in arrays.files if not name.endswith(_PARTS)]
            return {name: _influence(arrays[name], int(arrays[f"{name}{_PARTS}"])) for name in names}
    except FileNotFoundError:
        return {}
    except (*_DAMAGE, OSError, ValueError, KeyError, TypeError, EOFError) as error:
        warn_once(
            f"{path}: expected the influences of scored images, got a damaged file ({type(error).__name__}). diffexp "
            "compares its scores without pairing."
        )
        return {}


def _influence(values: np.ndarray, parts: int) -> Influence:
    if values.dtype != np.float32 or values.ndim != 2 or values.shape[1] not in (1, 3) or not 2 <= len(values) <= parts:
        raise ValueError("other arrays")
    return Influence(values, parts)


def table_influences(folder: Path, row: str, network_calls: int, repeat: int) -> Path:
    """Return the file of the influences of one repeat of an entry of the table in a folder."""
    readable = re.sub(r"[^A-Za-z0-9._-]", "_", row)
    unique = "" if readable == row else f"-{zlib.crc32(row.encode()):08x}"
    return folder / "influences" / f"{readable}{unique}-{network_calls}-{repeat}.npz"
