import numpy as np
import torch
from PIL import Image

from diffexp.data.grids import beside, grid, save_png, tensor_of, to_picture


def test_tiles_stand_where_they_belong_with_the_real_ones_above():
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 1, 8, 8) * 20
    real = torch.full((8, 1, 8, 8), 255, dtype=torch.uint8)
    picture = np.asarray(grid(images, real))
    tile, gap = 32, 2  # 8×8 pixels enlarged four times
    assert picture.shape == (gap + 3 * (tile + gap) + 3 * gap, 8 * (tile + gap) + gap, 3)
    for row, column, value in [(0, 0, 255), (0, 7, 255), (1, 0, 0), (1, 7, 140), (2, 0, 160), (2, 1, 180)]:
        top = gap + row * (tile + gap) + (3 * gap if row else 0)
        left = gap + column * (tile + gap)
        assert (picture[top : top + tile, left : left + tile] == value).all()


def test_enlarging_does_not_smooth():
    image = torch.randint(256, (3, 8, 8), dtype=torch.uint8)
    pixels = np.asarray(to_picture(image, factor=4))
    assert (pixels[::4, ::4] == image.permute(1, 2, 0).numpy()).all()
    assert (pixels[3::4, 3::4] == image.permute(1, 2, 0).numpy()).all()


def test_a_saved_picture_is_the_picture(tmp_path):
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    picture = grid(images)
    save_png(picture, tmp_path / "deep" / "grid.png")
    read = Image.open(tmp_path / "deep" / "grid.png")
    assert (np.asarray(read) == np.asarray(picture)).all()
    assert (tensor_of(picture)[:, 2:34, 2:34] == images[0]).all()


def test_pictures_stand_side_by_side():
    one, two = Image.new("RGB", (10, 20), "red"), Image.new("RGB", (30, 20), "blue")
    whole = beside({"ddpm": one, "ddim": two})
    assert whole.getpixel((5, 30)) == (255, 0, 0)
    assert whole.getpixel((whole.width - 5, 30)) == (0, 0, 255)
