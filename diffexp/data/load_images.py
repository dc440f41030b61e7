"""Images that are scored as they are: nothing is resized, cut or converted."""

import logging
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from PIL import Image

from diffexp.data.archives import open_files
from diffexp.data.image_files import StoredImages
from diffexp.data.images import ImageSet, MemoryImages
from diffexp.data.layout import splits
from diffexp.errors import UserError

log = logging.getLogger(__name__)

# Ours and, for samples, that of guided-diffusion, which others took over.
_ARRAYS = ("images", "arr_0")
_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
_LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".avif", ".jp2")


def load_images(path: Path) -> ImageSet:
    """The images of a .npz, a folder or a zip.

    A .npz holds `images` (or `arr_0`): uint8, (N, H, W, C) or grey (N, H, W). The files of a folder or zip must all
    have the same square size; they are grey if all of them are.

    Raises:
        UserError: if they are anything else.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such .npz, folder or zip of images")
    return _from_npz(path) if path.suffix.lower() == ".npz" else _from_files(path)


def _from_npz(path: Path) -> MemoryImages:
    try:
        with np.load(path, allow_pickle=False) as file:
            name = next((each for each in _ARRAYS if each in file), None)
            if name is None:
                raise UserError(f"{path}: holds {', '.join(file) or 'nothing'}, but no array {' or '.join(_ARRAYS)}")
            pixels = file[name]
    except (OSError, ValueError, EOFError, TypeError, BadZipFile) as error:
        raise UserError(f"{path}: cannot be read as a .npz of arrays: {error}") from error
    if pixels.dtype != np.uint8:
        raise UserError(
            f"{path}: {name} is {pixels.dtype}, but pixels are uint8 in 0 … 255; round and clamp them before saving"
        )
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3):
        raise UserError(f"{path}: {name} is {pixels.shape}, but must be (N, H, W) or (N, H, W, C) with C 1 or 3")
    return MemoryImages(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous())


def _from_files(path: Path) -> ImageSet:
    files = open_files(path)
    if (parts := splits(path, files.names)) is not None:
        raise UserError(
            f"{path}: expected one set of images, got folders of splits ({', '.join(parts)}). Name one of them; unpack "
            "a zip before."
        )
    sizes: dict[tuple[int, int], str] = {}
    grey = True
    for name in files.names:
        try:
            with files.open(name) as file, Image.open(file) as image:
                sizes.setdefault(image.size, name)
                grey = grey and image.mode in _GREY
        except Exception as error:  # on damaged bytes PIL's decoders raise whatever they run into
            raise UserError(f"{path}: cannot decode {name}: {error}. Repair or remove it.") from error
    if len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        raise UserError(
            f"{path}: images must be of one size: {first} is {one[0]}×{one[1]}, {second} {other[0]}×{other[1]}"
        )
    width, height = next(iter(sizes))
    if width != height:
        raise UserError(f"{path}: images must be square, not {width}×{height}")
    lossy = sum(name.lower().endswith(_LOSSY) for name in files.names)
    if lossy:
        log.warning(
            "%s: %d of %d files may be lossy (JPEG, WebP, AVIF), which changes scores; use PNG",
            path,
            lossy,
            len(files.names),
        )
    return StoredImages(files, files.names, (1 if grey else 3, height, width))
