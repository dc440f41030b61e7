"""Convert integers of any declared depth in an image file to 8 bits."""

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile

Doubt = Callable[[str], None]

AS_8_BIT = "its integers have no declared range and none exceeds 255; diffexp reads 255 as white"
AS_16_BIT = "its integers have no declared range and some exceed 255; diffexp reads 65535 as white"
DARK = (
    "it declares 16 bits, but every value is below a quarter of white. If it holds 10 to 14 bits, scale it to 16, or "
    "declare the depth by sBIT (PNG), BitsPerSample (TIFF) or MaxVal (PGM)"
)
HIGH_BITS = "its transparent colour has 16 bits; diffexp compares the high 8 of each colour, because PIL keeps no more"
_DARK = 2**14

# TIFF tags
_BITS, _PHOTOMETRIC, _FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _UNSIGNED, _SIGNED = 0, 1, 2
_GREY_PNG = 0  # colour type


@dataclass(frozen=True)
class Depth:
    """The depth that a file declares for its samples.

    Attributes:
        bits: bits of each sample; None if the file declares no range.
        significant: the smaller number of bits that grey samples originally had, if the file declares it.
        scaled: whether PIL has already scaled the samples to 16 bits.
        inverted: whether 0 is white and PIL has not inverted the samples.
    """

    bits: int | None = 8
    significant: int | None = None
    scaled: bool = False
    inverted: bool = False


def declared(image: Image.Image, data: bytes) -> Depth:
    """Return the depth that a file declares, and correct the transparent colour of a PNG to PIL's 8 bits.

    Args:
        image: the image, opened but not loaded yet.
        data: the file's bytes.

    Raises:
        ValueError: for signed 8-bit samples, which PIL reads as unsigned.
    """
    if image.format == "PNG":
        bits, colour = data[24], data[25]
        transparent = image.info.get("transparency")
        if image.mode == "L" and isinstance(transparent, int):
            image.info["transparency"] = transparent * 255 // (2**bits - 1)
        elif image.mode == "RGB" and bits == 16 and transparent is not None:
            image.info["transparency"] = tuple(level >> 8 for level in transparent)
        if bits < 8:
            return Depth()  # PIL scales them
        return Depth(bits, _significant_bits(data) if colour == _GREY_PNG else None)
    if isinstance(image, TiffImageFile):
        bits = max(image.tag_v2.get(_BITS, (1,)))
        signed = max(image.tag_v2.get(_FORMAT, (_UNSIGNED,))) == _SIGNED
        if signed and bits == 8:
            raise ValueError("signed 8-bit pixels have no known range")
        inverted = image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO and image.mode.startswith("I;16")
        return Depth(None if signed or bits > 16 else bits, inverted=inverted)
    if isinstance(image, PpmImageFile):
        codec, _, _, arguments = image.tile[0]
        if codec == "raw":
            return Depth(16 if image.mode == "I" else 8)
        # PIL scales samples with MaxVal < 65535; its decoder receives MaxVal as the last argument.
        return Depth(16, scaled=not (isinstance(arguments, tuple) and arguments[-1] == 65535))
    return Depth(16 if image.mode.startswith("I;16") else None)


def grey_8_bit(image: Image.Image, depth: Depth, doubt: Doubt) -> Image.Image:
    """Convert grey samples of another depth to an image of mode L, with transparent pixels white.

    Args:
        image: of mode L, I, I;16 (of any byte order) or F.
        depth: the depth that its file declares.
        doubt: called with a reason if the range is uncertain.

    Raises:
        ValueError: if the range is unknown: floating point, negative or above 65535.
    """
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"pixels of type {values.dtype} have no known range")
    largest = int(values.max())
    if depth.bits is None:
        white = 255 if largest <= 255 else 65535
        doubt(AS_8_BIT if largest <= 255 else AS_16_BIT)
    elif _right_aligned(values, depth):
        assert depth.significant is not None
        white = 2**depth.significant - 1
    else:
        white = 65535 if depth.scaled else 2**depth.bits - 1
        if depth.bits == 16 and not depth.scaled and depth.significant is None and 0 < largest < _DARK:
            doubt(DARK)
    pixels = np.rint(values / (white / 255)).astype(np.uint8)
    if depth.inverted:
        pixels = 255 - pixels
    if isinstance(transparent := image.info.get("transparency"), int):
        pixels[values == transparent] = 255
    return Image.fromarray(pixels)


def doubt_colours(image: Image.Image, depth: Depth, doubt: Doubt) -> None:
    """Report doubt about a suspiciously dark image with 16 bits a colour, of which PIL keeps the high bytes."""
    if depth.bits == 16 and not depth.scaled and image.mode in ("RGB", "RGBA", "LA"):
        colours = np.asarray(image.convert("L" if image.mode == "LA" else "RGB"))
        if colours.max() < _DARK >> 8:
            doubt(DARK)
        if image.mode == "RGB" and "transparency" in image.info:
            doubt(HIGH_BITS)


def _significant_bits(data: bytes) -> int | None:
    """Return the first number of a PNG's sBIT chunk."""
    position = len(b"\x89PNG\r\n\x1a\n")
    while position + 9 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"sBIT":
            return data[position + 8]
        if kind == b"IDAT":
            return None
        position += 12 + int(length)
    return None


def _right_aligned(values: np.ndarray, depth: Depth) -> bool:
    """Return whether samples occupy the low bits, although a PNG's significant bits belong at the top.

    In a dark image with the significant bits at the top, the low bits are 0, or 1 after rounding.
    """
    if depth.significant is None or depth.bits is None or not 0 < depth.significant < depth.bits:
        return False
    low = values & (2 ** (depth.bits - depth.significant) - 1)
    return bool(values.max() < 2**depth.significant and low.max() > 1)
