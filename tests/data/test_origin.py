"""What a loaded set says of its images before conversion, and of what was left out."""

from pathlib import Path

import pytest
import torch

from diffexp.config.schemas.data import DigitsConfig
from diffexp.data.datamodule import ImageDataModule
from diffexp.data.digits import load as load_digits
from diffexp.data.image_folder import load
from diffexp.data.images import MemoryImages, without_held_out
from diffexp.data.origin import Origin
from tests.helpers.image_places import noise_png, png, write_folder


@pytest.mark.parametrize("memory_gb", [0, 1])
def test_sizes_and_skipped_files_of_a_folder(tmp_path: Path, memory_gb: float) -> None:
    files = {f"a/{number}.png": png(number, 4 + number) for number in range(3)}
    path = write_folder(tmp_path / "images", files | {"a/broken.png": noise_png()[:2000], "a/notes.txt": b"?"})
    for _ in range(2):  # from the files, and on disk then from the cache
        images = load("train", 4, 1, memory_gb, path=str(path), on_decode_error="skip")
        skipped = {"cannot be decoded": ["a/broken.png"], "not an image that PIL can read": ["a/notes.txt"]}
        assert images.origin == Origin((4, 4), (6, 6), skipped)
        assert images.names == ["a/0.png", "a/1.png", "a/2.png"]
        kept, held_out = without_held_out(images, 1)
        assert kept.origin == held_out.origin == images.origin
        assert (kept.names, held_out.names) == (["a/1.png", "a/2.png"], ["a/0.png"])


def test_the_digits_are_8_by_8_before_they_are_padded() -> None:
    images = load_digits("train", 16, 1, 1.0)
    assert images.origin == Origin((8, 8), (8, 8))
    assert images.image_shape == (1, 16, 16)
    data = ImageDataModule.from_config(DigitsConfig(held_out=7), 4, 0)
    assert data.images("held_out").origin == Origin((8, 8), (8, 8))


def test_images_of_no_other_origin_had_their_shape_before() -> None:
    assert MemoryImages(torch.zeros(2, 3, 4, 5, dtype=torch.uint8)).origin == Origin((5, 4), (5, 4))
