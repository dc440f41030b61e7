"""A small heat map of errors over steps and noise levels, for loggers; reports draw a larger one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

_CELL = (16, 14)  # pixels in x and y
_LEFT, _BELOW, _RIGHT = 30, 16, 8
_WIDE = 480  # pixels of the cells, at least
_HIGHEST = 1.5  # multiple of a level's lowest error with the last colour
_COLOURS = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], np.float64)  # viridis


def level_map(steps: Sequence[int], levels: Sequence[int], errors: NDArray[Any]) -> Image.Image:
    """Draw the error at each level as a multiple of the lowest at this level: dark is 1, yellow 1.5 or more.

    Args:
        steps: the steps, in columns.
        levels: the levels of log SNR, in rows.
        errors: the error by step and level, shape (steps, levels).

    Returns:
        An RGB image with the levels on the left, and the first and the last step below.
    """
    relative = errors / np.maximum(errors.min(0), np.finfo(np.float32).tiny)
    place = np.nan_to_num((relative - 1) / (_HIGHEST - 1), nan=1.0).clip(0, 1) * (len(_COLOURS) - 1)
    colours = [np.interp(place.T, range(len(_COLOURS)), channel) for channel in _COLOURS.T]
    cells = Image.fromarray(np.stack(colours, axis=-1).round().astype(np.uint8))
    width, height = max(_WIDE, _CELL[0] * len(steps)), _CELL[1] * len(levels)
    picture = Image.new("RGB", (_LEFT + width + _RIGHT, height + _BELOW), "white")
    picture.paste(cells.resize((width, height), Image.Resampling.NEAREST), (_LEFT, 0))
    draw = ImageDraw.Draw(picture)
    for row, level in enumerate(levels):
        draw.text((_LEFT - 6, _CELL[1] * (row + 0.5)), str(level), "black", anchor="rm")
    draw.text((_LEFT, height + 2), f"step {steps[0]}", "black")
    if len(steps) > 1:
        draw.text((_LEFT + width, height + 2), str(steps[-1]), "black", anchor="ra")
    return picture
