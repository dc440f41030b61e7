"""Pictures of images: tiles, grids, PNG files."""

from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from diffexp.system.files import atomic_write

_GAP = 2  # pixels between tiles
_TILE = 32  # smallest height of a tile; smaller images are enlarged without smoothing
_SHADE = 96  # grey level of the gaps, visible next to black and white tiles


def grid(images: Tensor, real: Tensor | None = None, columns: int = 8) -> Image.Image:
    """Arrange images in rows, with a row of real images at the top.

    Args:
        images: uint8 (N, C, H, W), C = 1 or 3.
        real: uint8 (M, C, H, W), or None; the first `columns` of them are the top row, with a gap below.
        columns: tiles in a row.

    Returns:
        An RGB picture. Small images are enlarged by an integer factor, without smoothing.
    """
    factor = max(1, -(-_TILE // images.shape[-2]))
    rows = [list(images[start : start + columns]) for start in range(0, len(images), columns)]
    if real is not None and len(real):
        rows.insert(0, list(real[:columns]))
    height, width = (side * factor + _GAP for side in images.shape[-2:])
    apart = 3 * _GAP if real is not None and len(real) else 0
    picture = Image.new("RGB", (columns * width + _GAP, len(rows) * height + _GAP + apart), (_SHADE,) * 3)
    for row, tiles in enumerate(rows):
        for column, tile in enumerate(tiles):
            top = _GAP + row * height + (apart if row else 0)
            picture.paste(to_picture(tile, factor), (_GAP + column * width, top))
    return picture


def to_picture(image: Tensor, factor: int = 1) -> Image.Image:
    """Convert one image, uint8 (C, H, W), to a picture in which each pixel is a square of `factor` pixels."""
    squares = image.cpu().repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
    if len(squares) == 1:
        return Image.fromarray(squares[0].numpy())
    return Image.fromarray(squares.permute(1, 2, 0).contiguous().numpy())


def beside(pictures: dict[str, Image.Image]) -> Image.Image:
    """Arrange pictures of equal height side by side, each below its name."""
    line = 16
    width = sum(picture.width for picture in pictures.values()) + 4 * _GAP * (len(pictures) - 1)
    height = max(picture.height for picture in pictures.values())
    whole = Image.new("RGB", (width, height + line), "white")
    left = 0
    for name, picture in pictures.items():
        ImageDraw.Draw(whole).text((left + _GAP, 2), name, fill="black")
        whole.paste(picture, (left, line))
        left += picture.width + 4 * _GAP
    return whole


def save_png(picture: Image.Image, path: Path) -> None:
    """Write a PNG atomically."""
    with atomic_write(path) as file:
        picture.save(file, format="PNG")


def tensor_of(picture: Image.Image) -> Tensor:
    """Convert an RGB picture to uint8 (3, H, W)."""
    return (
        torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(*picture.size[::-1], 3).permute(2, 0, 1)
    )
