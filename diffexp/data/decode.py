"""Decode any image file to uint8 pixels of one shape; this module has every rule of the conversion.

- Of several frames (GIF, TIFF, animated PNG and WebP), the first is read.
- EXIF orientation is applied; colour profiles are not.
- Grey levels become round(x · 255 / white). White is the largest value of the depth that the file declares:
  BitsPerSample of a TIFF, MaxVal of a PGM, sBIT of a PNG whose values end there, otherwise 65535 for 16 bits. PIL reads
  only the high bytes of 16-bit colours.
- Integers without a declared range (32-bit or signed) have 255 as white if none exceeds it, otherwise 65535. Integers
  above 65535, negative integers and floating-point numbers have no known range: diffexp rejects the file.
- Transparent pixels are composited on white.
- Palette, 1-bit, CMYK and other modes become RGB as PIL converts them.
- RGB becomes grey by ITU-R 601 luma, (299 R + 587 G + 114 B) / 1000; grey becomes RGB by repetition.
- The short side is resized to the requested size (bicubic, antialiased; the long side in proportion, rounded to an
  integer), then the centre is cropped. An image that already has the size is unchanged, bit for bit.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from diffexp.data.archives import readable_formats
from diffexp.data.depth import Depth, Doubt, declared, doubt_colours, grey_8_bit
from diffexp.data.origin import Size


def decode(
    data: bytes,
    image_size: int,
    channels: int,
    doubt: Doubt = lambda reason: None,
    sizes: set[Size] | None = None,
) -> NDArray[np.uint8]:
    """Decode the image in a file to uint8 (channels, image_size, image_size).

    Args:
        data: the content of the file, in any of `readable_formats`.
        image_size: height and width of the result.
        channels: 1 (grey) or 3 (RGB).
        doubt: called with a reason if the file leaves the range of its values uncertain.
        sizes: receives the (width, height) of the upright image.

    Raises:
        ValueError: for pixels without a known range.
        Exception: of any type, from PIL's decoders on damaged bytes.
    """
    with Image.open(io.BytesIO(data), formats=readable_formats()) as image:
        depth = declared(image, data)
        upright = ImageOps.exif_transpose(image)
        if sizes is not None:
            sizes.add(upright.size)
        pixels = np.asarray(_centre(_coloured(upright, channels, depth, doubt), image_size))
    return pixels.reshape(image_size, image_size, channels).transpose(2, 0, 1).copy()


def _coloured(image: Image.Image, channels: int, depth: Depth, doubt: Doubt) -> Image.Image:
    if image.mode.startswith(("I", "F")) or (image.mode == "L" and depth.significant is not None):
        image = grey_8_bit(image, depth, doubt)
    else:
        doubt_colours(image, depth, doubt)
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    return image.convert("L" if channels == 1 else "RGB")


def _centre(image: Image.Image, size: int) -> Image.Image:
    short = min(image.size)
    width, height = (round(side * size / short) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    across, down = image.width / width, image.height / height
    # Resize only what the crop keeps, because a very long image would become a very large one.
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)
