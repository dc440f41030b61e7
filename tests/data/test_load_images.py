"""Images to score: what is grey, and what is converted as in a dataset."""

import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from diffexp.data.image_folder import load as load_folder
from diffexp.data.load_images import load_images
from diffexp.errors import UserError
from tests.helpers.image_places import bomb as pixel_bomb
from tests.helpers.image_places import noise_png, write_folder, write_zip


def test_wider_grey_is_grey_and_converted_as_in_a_dataset(tmp_path, caplog):
    Image.fromarray(np.full((4, 4), 25700, np.uint16)).save(tmp_path / "a.png")
    Image.fromarray(np.full((4, 4), 200, np.int32)).save(tmp_path / "b.tif")
    Image.new("LA", (4, 4), (0, 51)).save(tmp_path / "c.png")
    (tmp_path / "c.txt").write_text("a caption")
    images = load_images(tmp_path)
    assert images.image_shape == (1, 4, 4)
    assert images.fetch(torch.arange(3))[:, 0, 0, 0].tolist() == [100, 200, 204]
    assert f"{tmp_path}: b.tif: its integers have no declared range and none exceeds 255" in caplog.text
    assert "skips files that PIL cannot read: 1 like c.txt" in caplog.text


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_a_damaged_file_is_named(tmp_path, write):
    path = write(tmp_path / "images", {"a.png": noise_png(), "b.png": noise_png()[:2000]})
    with pytest.raises(UserError, match=r"cannot decode 1 of 2 files: b\.png \(.*truncated.*Repair or remove the"):
        load_images(path).fetch(torch.arange(2))


def _patched(path, signature, at, value):
    """A zip with another number (two bytes) in each header with this signature."""
    data, start = bytearray(path.read_bytes()), 0
    while (start := data.find(signature, start)) >= 0:
        data[start + at : start + at + 2] = value.to_bytes(2, "little")
        start += 4
    path.write_bytes(data)


def test_score_and_train_say_the_same_of_a_damaged_zip(tmp_path):
    def printed(load_it):
        with pytest.raises(UserError) as caught:
            load_it()
        return str(caught.value).removesuffix(".").removesuffix(", or set data.on_decode_error=skip")

    def both(path):
        one, two = printed(lambda: load_images(path)), printed(lambda: load_folder("train", 64, 1, 1, path=str(path)))
        assert one == two
        return one

    def stored(name):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for number in range(3):
                archive.writestr(f"{number}.png", noise_png(number))
        return tmp_path / name

    crc = stored("crc.zip")
    data = bytearray(crc.read_bytes())
    data[data.index(noise_png(1)) + 500] ^= 1
    crc.write_bytes(data)
    assert "crc.zip: cannot decode 1 of 3 files: 1.png (Bad CRC-32" in both(crc)

    ppmd = stored("ppmd.zip")
    _patched(ppmd, b"PK\3\4", 8, 98)
    _patched(ppmd, b"PK\1\2", 10, 98)
    assert "ppmd.zip: cannot decode 3 of 3 files: 0.png (That compression method is not supported)" in both(ppmd)

    encrypted = stored("encrypted.zip")
    _patched(encrypted, b"PK\3\4", 6, 1)
    _patched(encrypted, b"PK\1\2", 8, 1)
    assert "encrypted.zip: expected an unencrypted zip" in both(encrypted)

    bomb = stored("bomb.zip")
    with zipfile.ZipFile(bomb, "a") as archive:
        archive.writestr("z.png", pixel_bomb())
    assert "bomb.zip: cannot decode 1 of 4 files: z.png (Image size (3600000000 pixels) exceeds limit" in both(bomb)

    large = stored("large.zip")
    data = bytearray(large.read_bytes())
    where = data.index(b"PK\1\2") + 24  # the size of the first member once it is unpacked
    data[where : where + 4] = (2**31).to_bytes(4, "little")
    large.write_bytes(data)
    assert "large.zip: cannot decode 1 of 3 files: 0.png (larger than 1 GiB)" in both(large)
