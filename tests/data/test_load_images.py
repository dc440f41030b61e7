"""Images to score: what is grey, and what is converted as in a dataset."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffexp.data.load_images import load_images
from diffexp.errors import UserError
from tests.data.test_image_folder import noise_png, write_folder, write_zip


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
