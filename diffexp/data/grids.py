"""Images as one picture: tiles, grids, PNG files."""

from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from diffexp.system.files import atomic_write

_GAP = 2  # pixels between tiles
_TILE = 32  # a tile is enlarged, without smoothing, until it is at least this high
_SHADE = 96  # grey level of the gaps, visible beside black and white tiles


def grid(images: Tensor, real: Tensor | None = None, columns: int = 8) -> Image.Image:
    """A picture of images in rows, below one row of real images.

    Args:
        images: uint8 (N, C, H, W), C 1 or 3.
        real: uint8 (M, C, H, W); the first `columns` of them make the first row, set apart.
        columns: tiles in a row.

    Returns:
        An RGB picture; small images are enlarged by a whole factor, without smoothing.
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
    """One image, uint8 (C, H, W), as a picture, each pixel a square of `factor` pixels."""
    squares = image.cpu().repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
    if len(squares) == 1:
        return Image.fromarray(squares[0].numpy())
    return Image.fromarray(squares.permute(1, 2, 0).contiguous().numpy())


def beside(pictures: dict[str, Image.Image]) -> Image.Image:
    """Pictures of equal height side by side, each under its name."""
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
    """Write a PNG, whole or not at all."""
    with atomic_write(path) as file:
        picture.save(file, format="PNG")


def tensor_of(picture: Image.Image) -> Tensor:
    """An RGB picture as uint8 (3, H, W)."""
    return (
        torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(*picture.size[::-1], 3).permute(2, 0, 1)
    )
