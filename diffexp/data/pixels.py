"""From the bytes of any image file to uint8 pixels of one shape: every rule of conversion is here.

- Of several frames (GIF, TIFF, animated PNG and WebP), the first.
- EXIF orientation is applied; colour profiles are not.
- 16-bit grey becomes round(x / 257), so that 0..65535 fills 0..255. (16-bit colour keeps its high byte: PIL
  reads no more of it.) Wider integers are taken as 16-bit values; beyond 0..65535 they, and
  floating-point pixels, have no known range and are refused.
- Whatever is transparent is laid on white.
- Palette, 1-bit, CMYK and others become RGB as PIL converts them.
- RGB becomes grey by ITU-R 601 luma, (299 R + 587 G + 114 B) / 1000; grey becomes RGB by repetition.
- The short side is resized to the wanted size (bicubic, antialiased; the long side in proportion, rounded to
  whole pixels), then the centre is cut out. An image that has the size already keeps every bit.
"""

import io
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps


def decode(file: IO[bytes], image_size: int, channels: int) -> NDArray[np.uint8]:
    """The image in a file, as uint8 (channels, image_size, image_size).

    Args:
        file: anything that PIL can read.
        image_size: height and width of the result.
        channels: 1 (grey) or 3 (RGB).

    Raises:
        Exception: of any kind, as PIL's decoders do on damaged bytes; ValueError for pixels without a known range.
    """
    # read whole: decoders seek, which is slow inside a zip
    with Image.open(io.BytesIO(file.read())) as image:
        upright = ImageOps.exif_transpose(image)
        pixels = np.asarray(_centre(_coloured(upright, channels), image_size))
    return pixels.reshape(image_size, image_size, channels).transpose(2, 0, 1).copy()


def check_header(file: IO[bytes]) -> None:
    """Read an image's header only, which finds what is no image at all or far too large a one.

    Raises:
        Exception: as `decode`.
    """
    Image.open(file).close()


def _coloured(image: Image.Image, channels: int) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = _from_16_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    return image.convert("L" if channels == 1 else "RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"pixels of type {values.dtype} have no known range")
    pixels = np.rint(values / 257).astype(np.uint8)
    if isinstance(transparent := image.info.get("transparency"), int):
        pixels[values == transparent] = 255
    return Image.fromarray(pixels)


def _centre(image: Image.Image, size: int) -> Image.Image:
    short = min(image.size)
    width, height = (round(side * size / short) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    across, down = image.width / width, image.height / height
    # resizing only what the crop keeps: a very long image would else become a very large one
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)
