import pytest
import torch

from diffexp.data.images import MemoryImages, pad_to_square, to_float, to_uint8


def test_floats_are_symmetric_and_come_back_as_the_same_pixels() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    floats = to_float(pixels)
    assert floats.dtype == torch.float32
    assert floats[0] == -1
    assert floats[255] == 1
    assert torch.allclose(floats, -floats.flip(0), rtol=0, atol=1e-7)
    assert floats[51].item() == pytest.approx(51 / 127.5 - 1)
    assert torch.equal(to_uint8(floats), pixels)


def test_to_uint8_clamps_and_rounds_to_nearest() -> None:
    levels = torch.tensor([-0.4, 0.4, 0.6, 99.49, 254.6, 255.4])
    assert to_uint8(levels / 127.5 - 1).tolist() == [0, 0, 1, 99, 255, 255]
    assert to_uint8(torch.tensor([-torch.inf, -3.0, 3.0, torch.inf])).tolist() == [0, 0, 255, 255]


def test_to_uint8_of_half_precision_rounds_in_single() -> None:
    assert to_uint8(torch.tensor([0.5], dtype=torch.bfloat16)).tolist() == [191]  # 191.25


def test_nan_has_no_pixel_value() -> None:
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(torch.tensor([0.0, torch.nan]))


def test_padding_is_black_and_even_with_the_odd_line_at_the_bottom_right() -> None:
    padded = pad_to_square(torch.full((1, 1, 1, 2), 9, dtype=torch.uint8), 5)
    expected = torch.zeros(5, 5, dtype=torch.uint8)
    expected[2, 1:3] = 9
    assert torch.equal(padded[0, 0], expected)
    odd = pad_to_square(torch.ones(1, 1, 2, 2, dtype=torch.uint8), 3)
    assert odd[0, 0].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]


def test_padding_never_cuts() -> None:
    with pytest.raises(ValueError, match="size: expected at least the images' 4×3 pixels, got 3×3"):
        pad_to_square(torch.zeros(1, 1, 4, 3, dtype=torch.uint8), 3)


def test_memory_images_fetch_in_the_order_asked_for() -> None:
    images = MemoryImages(
        torch.arange(12, dtype=torch.uint8).reshape(4, 1, 1, 3), torch.tensor([0, 1, 1, 0]), ["a", "b"]
    )
    assert len(images) == 4
    assert images.image_shape == (1, 1, 3)
    assert images.fetch(torch.tensor([3, 0, 3])).flatten(1).tolist() == [[9, 10, 11], [0, 1, 2], [9, 10, 11]]


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (torch.zeros(2, 1, 4, 4), None),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), None),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0])),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0.0, 1.0])),
    ],
)
def test_memory_images_refuse_what_does_not_fit(images: torch.Tensor, labels: torch.Tensor | None) -> None:
    with pytest.raises(ValueError, match="expected"):
        MemoryImages(images, labels)
