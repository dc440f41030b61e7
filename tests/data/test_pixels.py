"""Every rule of diffexp.data.pixels, against values worked out by hand or by PIL on a whole image."""

import io

import numpy as np
import pytest
from PIL import Image

from diffexp.data.pixels import decode

NOISE = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def decoded(image: Image.Image, channels: int = 3, kind: str = "PNG", size: int | None = None, **options: object):
    """What `decode` makes of a saved image, as (H, W) or (H, W, C)."""
    pixels = decode(encoded(image, kind, **options), size or min(image.size), channels)
    assert pixels.dtype == np.uint8
    return pixels[0] if channels == 1 else pixels.transpose(1, 2, 0)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_an_rgb_image_of_the_right_size_keeps_every_bit(kind: str, options: dict[str, object]) -> None:
    assert np.array_equal(decoded(Image.fromarray(NOISE), kind=kind, **options), NOISE)


def test_grey_keeps_every_bit_and_is_repeated_as_rgb() -> None:
    grey = NOISE[..., 0]
    assert np.array_equal(decoded(Image.fromarray(grey), channels=1), grey)
    assert np.array_equal(decoded(Image.fromarray(grey), channels=3), np.stack([grey] * 3, axis=-1))


def test_rgb_becomes_grey_by_luma_601() -> None:
    luma = NOISE @ np.array([0.299, 0.587, 0.114])
    assert np.abs(decoded(Image.fromarray(NOISE), channels=1) - luma).max() <= 0.51


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_grey_is_scaled_not_clipped(kind: str, channels: int) -> None:
    values = np.array([[0, 128, 129], [257, 32768, 40000], [65406, 65407, 65535]], dtype=np.uint16)
    expected = np.array([[0, 0, 1], [1, 128, 156], [254, 255, 255]])  # round(x / 257)
    pixels = decoded(Image.fromarray(values), channels, kind)
    assert np.array_equal(pixels if channels == 1 else pixels[..., 1], expected)


def test_big_endian_16_bit_tiff() -> None:
    values = np.array([[257, 514], [771, 65535]], dtype=">u2")
    image = Image.frombytes("I;16B", (2, 2), values.tobytes())
    assert decoded(image, 1, "TIFF").tolist() == [[1, 2], [3, 255]]


def test_wider_integers_are_16_bit_values() -> None:
    assert decoded(Image.fromarray(np.full((2, 2), 25700, np.int32)), 1, "TIFF").tolist() == [[100, 100], [100, 100]]


@pytest.mark.parametrize("value", [np.int32(70000), np.int32(-1), np.float32(0.5)])
def test_pixels_without_a_known_range_are_refused(value: np.generic) -> None:
    with pytest.raises(ValueError, match="have no known range"):
        decoded(Image.fromarray(np.full((2, 2), value)), 1, "TIFF")


def test_what_is_transparent_is_laid_on_white() -> None:
    image = Image.new("RGBA", (2, 2))
    image.putdata([(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 255, 51), (100, 100, 100, 102)])
    # white · (1 - a) + colour · a, with a = 1, 0, 0.2, 0.4
    assert decoded(image).tolist() == [[[255, 0, 0], [255, 255, 255]], [[204, 204, 255], [193, 193, 193]]]


def test_grey_with_alpha_is_laid_on_white() -> None:
    image = Image.new("LA", (2, 2))
    image.putdata([(0, 255), (0, 0), (0, 51), (100, 102)])
    assert decoded(image, channels=1).tolist() == [[0, 255], [204, 193]]


def test_a_palette_gives_its_colours_and_its_transparent_entry_white() -> None:
    image = Image.new("P", (2, 2))
    image.putpalette([10, 20, 30, 200, 100, 0, 7, 7, 7])
    image.putdata([0, 1, 2, 0])
    assert decoded(image).tolist() == [[[10, 20, 30], [200, 100, 0]], [[7, 7, 7], [10, 20, 30]]]
    assert decoded(image, transparency=2).tolist()[1] == [[255, 255, 255], [10, 20, 30]]
    assert decoded(image, kind="GIF").tolist()[0] == [[10, 20, 30], [200, 100, 0]]


def test_a_transparent_colour_of_an_rgb_png_is_white() -> None:
    image = Image.new("RGB", (2, 2), (1, 2, 3))
    image.putpixel((0, 0), (1, 2, 4))
    assert decoded(image, transparency=(1, 2, 3)).tolist() == [[[1, 2, 4], [255] * 3], [[255] * 3, [255] * 3]]


def test_one_bit_is_black_and_white() -> None:
    image = Image.fromarray(np.array([[True, False], [False, True]]))
    assert image.mode == "1"
    assert decoded(image, channels=1).tolist() == [[255, 0], [0, 255]]


def test_cmyk_becomes_rgb() -> None:
    image = Image.new("CMYK", (2, 2), (255, 0, 0, 0))  # pure cyan
    assert decoded(image, kind="TIFF")[0, 0].tolist() == [0, 255, 255]
    assert np.abs(decoded(Image.new("CMYK", (8, 8), (0, 0, 0, 51)), kind="JPEG").astype(int) - 204).max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(kind: str) -> None:
    image = Image.new("L", (16, 16))
    image.paste(255, (0, 0, 16, 8))  # bright above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90°: bright on the right
    pixels = decoded(image.convert("RGB"), 1, kind, exif=exif)
    assert pixels[:, 9:].min() > 240
    assert pixels[:, :7].max() < 15


def test_the_first_frame_counts() -> None:
    frames = [Image.new("L", (4, 4), value) for value in (50, 200)]
    assert (decoded(frames[0], 1, "GIF", save_all=True, append_images=frames[1:]) == 50).all()
    assert (decoded(frames[0], 1, "TIFF", save_all=True, append_images=frames[1:]) == 50).all()


@pytest.mark.parametrize(("width", "height"), [(17, 12), (12, 16), (13, 12), (12, 12)])
def test_where_the_short_side_fits_the_centre_is_cut_out_untouched(width: int, height: int) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    left, top = (width - 12) // 2, (height - 12) // 2
    assert np.array_equal(decoded(Image.fromarray(noise)), noise[top : top + 12, left : left + 12])


@pytest.mark.parametrize(("width", "height", "size"), [(40, 61, 16), (200, 90, 33), (10, 15, 24), (64, 64, 32)])
def test_resizing_is_bicubic_by_the_short_side_then_cut(width: int, height: int, size: int) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8)
    scale = size / min(width, height)
    whole = Image.fromarray(noise).resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    left, top = (whole.width - size) // 2, (whole.height - size) // 2
    expected = whole.crop((left, top, left + size, top + size))
    assert np.array_equal(decoded(Image.fromarray(noise), size=size), np.asarray(expected))


def test_downsizing_is_antialiased() -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    inner = decoded(Image.fromarray(stripes), channels=1, size=16)[2:-2, 2:-2]
    assert np.abs(inner.astype(int) - 127).max() <= 1  # point sampling would give 0 or 255


def test_a_very_long_image_costs_no_more_than_its_centre() -> None:
    strip = np.repeat(np.arange(60000, dtype=np.uint32) * 255 // 60000, 1).astype(np.uint8)[None]
    pixels = decoded(Image.fromarray(strip), channels=1, size=512)  # resized whole: 30 million × 512 pixels
    assert (pixels == 127).all()
