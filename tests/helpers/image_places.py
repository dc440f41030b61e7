"""Folders and zips of small images, and of files that are not."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from diffexp.data.image_folder import load
from diffexp.data.images import ImageSet

Pack = Callable[[dict[str, bytes]], Path]
IN_MEMORY, ON_DISK = 1.0, 0.0


def png(value: int, size: int = 4) -> bytes:
    file = io.BytesIO()
    Image.new("L", (size, size), value).save(file, "PNG")
    return file.getvalue()


def noise_png(seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def bomb() -> bytes:
    """A PNG that states 60,000 × 60,000 pixels."""
    data = bytearray(png(0))
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def write_folder(place: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    return place


def write_zip(place: Path, files: dict[str, bytes]) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in reversed(files.items()):  # the order in the zip must not matter
            archive.writestr(name, data)
    return place


def values(images: ImageSet) -> list[int]:
    """The grey value of each one-coloured image."""
    return images.fetch(torch.arange(len(images)))[:, 0, 0, 0].tolist()


def read(path: Path, split: str = "train", memory_gb: float = IN_MEMORY, **own: object) -> ImageSet:
    return load(split, 4, 1, memory_gb, path=str(path), **own)


TWO_CLASSES = {"cat/10.png": png(1), "cat/9.PNG": png(2), "dog/deep/er/1.png": png(3), "dog/2.png": png(4)}


BROKEN = {
    "a/truncated.png": (noise_png()[:2000], "truncated"),
    "a/text.jpg": (b"not at all", "not an image"),
    "b/empty.gif": (b"", "not an image"),
    "b/bomb.png": (bomb(), "exceeds limit"),
}
