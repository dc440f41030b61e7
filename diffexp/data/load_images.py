"""Load images for scoring as they are, without resizing, cropping or conversion."""

import logging
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from diffexp.config.schemas.data import MEMORY_GB
from diffexp.data.archives import open_files, readable_formats
from diffexp.data.arrays import array_names, read_arrays
from diffexp.data.image_files import StoredImages, fits_in_memory
from diffexp.data.images import ImageSet, MemoryImages
from diffexp.data.layout import splits
from diffexp.data.origin import Size
from diffexp.errors import UserError

log = logging.getLogger(__name__)

# diffexp's, and guided-diffusion's name for samples, which other projects use too.
_ARRAYS = ("images", "arr_0")
_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
_LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".avif", ".jp2")


def load_images(path: Path) -> ImageSet:
    """Load the images of a .npz, a folder or a zip.

    A .npz contains `images` (or `arr_0`), uint8 (N, H, W, C), or (N, H, W) for grey images. The files in a folder or
    zip must be square and of one size. They are read as grey if all of them are.

    Raises:
        UserError: for anything else.
        EnvironmentFailure: if the disk or the network fails.
    """
    return _from_npz(path) if path.suffix.lower() == ".npz" else _from_files(path)


def _from_npz(path: Path) -> MemoryImages:
    there = array_names(path)
    name = next((each for each in _ARRAYS if each in there), None)
    if name is None:
        raise UserError(f"{path}: expected an array {' or '.join(_ARRAYS)}, got {', '.join(there) or 'nothing'}.")
    pixels = read_arrays(path, name)[name]
    if pixels.dtype != np.uint8:
        raise UserError(
            f"{path}: {name}: expected uint8 pixels in 0 … 255, got {pixels.dtype}. Round and clamp them before saving."
        )
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3):
        raise UserError(f"{path}: {name}: expected (N, H, W) or (N, H, W, C) with C = 1 or 3, got {pixels.shape}.")
    return MemoryImages(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous())


def _from_files(path: Path) -> ImageSet:
    files = open_files(path)
    if (parts := splits(path, files.names)) is not None:
        raise UserError(
            f"{path}: expected one set of images, got folders of splits ({', '.join(parts)}). Give one of these "
            "folders; unpack a zip first."
        )
    sizes: dict[Size, str] = {}
    grey = True
    for name in files.names:
        # Decoding reports damaged files, all of them. PIL's decoders raise any exception on damaged bytes.
        with suppress(Exception), files.open(name) as file, Image.open(file, formats=readable_formats()) as image:
            sizes.setdefault(image.size, name)
            grey = grey and image.mode in _GREY
    if len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        raise UserError(
            f"{path}: expected images of one size, got {first}: {one[0]}×{one[1]}, {second}: {other[0]}×{other[1]}."
        )
    width, height = next(iter(sizes), (1, 1))
    if width != height:
        raise UserError(f"{path}: expected square images, got {width}×{height}.")
    lossy = sum(name.lower().endswith(_LOSSY) for name in files.names)
    if lossy:
        log.warning(
            "%s: %d of %d files may be lossy (JPEG, WebP, AVIF), which changes scores. Use PNG.",
            path,
            lossy,
            len(files.names),
        )
    images = StoredImages(files, files.names, (1 if grey else 3, height, width))
    return images.in_memory() if fits_in_memory(len(images), images.image_shape, MEMORY_GB) else images.checked()
