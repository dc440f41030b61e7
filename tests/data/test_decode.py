"""Every rule of diffexp.data.decode, against values worked out by hand or by PIL on a whole image."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from diffexp.data import decode as rules
from diffexp.data.decode import decode
from diffexp.data.depth import AS_8_BIT, AS_16_BIT, DARK, Depth

NOISE = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


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


@pytest.mark.parametrize(
    ("values", "expected", "doubt"),
    [
        ([[0, 255], [100, 7]], [[0, 255], [100, 7]], AS_8_BIT),
        ([[0, 25700], [65535, 257]], [[0, 100], [255, 1]], AS_16_BIT),
        ([[0, 256], [0, 0]], [[0, 1], [0, 0]], AS_16_BIT),
    ],
)
def test_integers_without_a_declared_range(values: list[list[int]], expected: list[list[int]], doubt: str) -> None:
    for dtype in (np.int32, np.uint32):
        doubts: list[str] = []
        assert decode(tiff(np.array(values, dtype)), 2, 1, doubts.append)[0].tolist() == expected
        assert doubts == [doubt]


def tiff(values: np.ndarray, bits: int | None = None, white_is_zero: bool = False, order: str = "<") -> bytes:
    """An uncompressed grey TIFF, written out by its specification."""
    kind = 2 if values.dtype.kind == "i" else 1
    data = values.tobytes()
    height, width = (2, 2) if bits else values.shape
    tags = {256: width, 257: height, 258: bits or 8 * values.dtype.itemsize, 259: 1, 262: 0 if white_is_zero else 1}
    tags |= {273: 8 + 2 + 12 * 10 + 4, 277: 1, 278: height, 279: len(data), 339: kind}
    entries = [struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items()]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    return head + b"".join(entries) + bytes(4) + data


def png(bits: int, colour: int, rows: list[bytes], **chunks: bytes) -> bytes:
    """A PNG of 2×2 pixels, written out by its specification."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, bits, colour, 0, 0, 0))
    more = b"".join(chunk(kind.encode(), data) for kind, data in chunks.items())
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + more + pixels + chunk(b"IEND", b"")


def grey(file: bytes) -> tuple[list[list[int]], list[str]]:
    """The pixels of a file of 2×2, and the doubts about them."""
    doubts: list[str] = []
    return decode(file, 2, 1, doubts.append)[0].tolist(), doubts


def rows16(*values: int) -> list[bytes]:
    return [struct.pack(">2H", *values[:2]), struct.pack(">2H", *values[2:])]


def test_12_bit_tiff_fills_the_range() -> None:
    packed = np.frombuffer(bytes([0x00, 0x0F, 0xFF, 0x80, 0x00, 0x64]), np.uint8)  # rows 0, 4095 and 2048, 100
    assert grey(tiff(packed, bits=12)) == ([[0, 255], [128, 6]], [])


def test_16_bit_tiff_whose_0_is_white() -> None:
    values = np.array([[0, 65535], [257, 25700]], np.uint16)
    assert grey(tiff(values, white_is_zero=True))[0] == [[255, 0], [254, 155]]
    assert grey(tiff(values))[0] == [[0, 255], [1, 100]]


@pytest.mark.parametrize("values", [np.array([[-5, 1], [2, 3]], np.int8), np.array([[-5, 1], [2, 3]], np.int16)])
def test_negative_samples_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="no known range"):
        grey(tiff(values))


@pytest.mark.parametrize(
    ("significant", "values", "expected"),
    [
        (12, (0, 4095, 2047, 1000), [[0, 255], [127, 62]]),  # 255 x / 4095
        (10, (0, 1023, 511, 100), [[0, 255], [127, 25]]),
        (12, (0, 65535, 0x8008, 0x4004), [[0, 255], [128, 64]]),  # already on top, as the specification wants
        (12, (0, 4080, 16, 160), [[0, 16], [0, 1]]),  # on top, and dark
        (16, (0, 4095, 2047, 1000), [[0, 16], [8, 4]]),
    ],
)
def test_significant_bits_of_a_png(significant: int, values: tuple[int, ...], expected: list[list[int]]) -> None:
    file = png(16, 0, rows16(*values), sBIT=bytes([significant]))
    assert grey(file) == (expected, [])


def test_significant_bits_of_an_8_bit_png() -> None:
    assert grey(png(8, 0, [bytes([0, 15]), bytes([7, 3])], sBIT=b"\4"))[0] == [[0, 255], [119, 51]]
    assert grey(png(8, 0, [bytes([0, 255]), bytes([17, 3])], sBIT=b"\4"))[0] == [[0, 255], [17, 3]]
    assert grey(png(4, 0, [b"\x0f", b"\x73"], sBIT=b"\4"))[0] == [[0, 255], [119, 51]]


def test_undeclared_bits_are_doubted() -> None:
    assert grey(png(16, 0, rows16(0, 4095, 2048, 1000))) == ([[0, 16], [8, 4]], [DARK])
    assert grey(png(16, 0, rows16(0, 16383, 0, 0)))[1] == [DARK]
    assert grey(png(16, 0, rows16(0, 16384, 0, 0)))[1] == []
    assert grey(png(16, 0, rows16(0, 0, 0, 0)))[1] == []
    assert grey(png(16, 4, [struct.pack(">4H", 0, 65535, 4095, 65535)] * 2))[1] == [DARK]  # with alpha
    assert grey(png(16, 2, [struct.pack(">6H", *[4095] * 6)] * 2))[1] == [DARK]  # colours
    assert grey(png(16, 2, [struct.pack(">6H", *[255] * 6)] * 2))[1] == [DARK]  # whose high bytes are 0
    assert grey(b"P6 2 2 65535\n" + struct.pack(">12H", *[4095] * 12))[1] == [DARK]
    assert grey(png(8, 0, [b"\0\1", b"\1\0"]))[1] == []
    assert grey(b"P6 2 2 255\n" + bytes([9] * 12))[1] == []


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (b"P5 2 2 4095\n" + struct.pack(">4H", 0, 4095, 2048, 1000), [[0, 255], [128, 62]]),
        (b"P5 2 2 15\n" + bytes([0, 15, 7, 3]), [[0, 255], [119, 51]]),
        (b"P2 2 2 1023\n0 1023 511 100\n", [[0, 255], [127, 25]]),
        (b"P5 2 2 65535\n" + struct.pack(">4H", 0, 65535, 257, 32768), [[0, 255], [1, 128]]),
        (
            b"P6 2 2 4095\n" + struct.pack(">12H", *[0] * 3, *[4095] * 3, *[2048] * 3, *[1000] * 3),
            [[0, 255], [128, 62]],
        ),
        (b"P1 2 2\n0 1 1 0\n", [[255, 0], [0, 255]]),
    ],
)
def test_maxval_is_white(file: bytes, expected: list[list[int]]) -> None:
    assert grey(file) == (expected, [])


@pytest.mark.parametrize(
    ("bits", "rows", "levels"),
    [  # the pixels 0, max, and two between
        (1, [b"\x40", b"\x40"], [[0, 255], [0, 255]]),
        (2, [b"\x30", b"\x60"], [[0, 255], [85, 170]]),
        (4, [b"\x0f", b"\x37"], [[0, 255], [51, 119]]),
        (8, [b"\x00\xff", b"\x33\x77"], [[0, 255], [51, 119]]),
        (16, rows16(0, 65535, 257 * 51, 257 * 119), [[0, 255], [51, 119]]),
    ],
)
def test_the_transparent_level_of_a_grey_png_is_white(bits: int, rows: list[bytes], levels: list[list[int]]) -> None:
    assert grey(png(bits, 0, rows))[0] == levels
    for level in {value for row in levels for value in row}:
        transparent = struct.pack(">H", level * (2**bits - 1) // 255)
        whitened = [[255 if value == level else value for value in row] for row in levels]
        assert grey(png(bits, 0, rows, tRNS=transparent))[0] == whitened


def test_the_transparent_colour_of_a_16_bit_png_is_white() -> None:
    red, blue = struct.pack(">3H", 40000, 0, 0), struct.pack(">3H", 0, 0, 40000)
    pixels = decode(png(16, 2, [red + blue, blue + red], tRNS=red), 2, 3).transpose(1, 2, 0)
    assert pixels.tolist() == [[[255] * 3, [0, 0, 156]], [[0, 0, 156], [255] * 3]]


def test_premultiplied_grey_is_laid_on_white() -> None:
    image = Image.merge("LA", [Image.new("L", (2, 2), 100), Image.new("L", (2, 2), 102)]).convert("La")
    assert np.asarray(rules._coloured(image, 1, Depth(), print)).tolist() == [[193, 193], [193, 193]]


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
    decode = decoded(Image.fromarray(strip), channels=1, size=512)  # resized whole: 30 million × 512 pixels
    assert (decode == 127).all()
