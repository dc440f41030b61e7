import torch
from sklearn.datasets import load_digits

from diffexp.config.schemas.data import DATA, DigitsConfig
from diffexp.data.digits import load


def test_splits_share_nothing_and_miss_nothing() -> None:
    train, test = load("train", 8, 1, 4.0), load("test", 8, 1, 4.0)
    assert (len(train), len(test)) == (1617, 180)
    assert train.labels is not None
    assert test.labels is not None
    target = torch.from_numpy(load_digits().target)
    assert torch.equal(test.labels, target[::10])
    assert torch.equal(train.labels[:9], target[1:10])
    assert train.class_names == list("0123456789")


def test_grey_levels_fill_the_bytes() -> None:
    test = load("test", 8, 1, 4.0)
    # the first row of scikit-learn's first digit is 0 0 5 13 9 1 0 0; 255/16 of each, rounded
    assert test.fetch(torch.tensor([0]))[0, 0, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert test.fetch(torch.arange(180)).max() == 255


def test_larger_images_are_padded() -> None:
    small, large = load("train", 8, 1, 4.0), load("train", 16, 1, 4.0)
    indices = torch.arange(20)
    assert large.image_shape == (1, 16, 16)
    assert torch.equal(large.fetch(indices)[..., 4:12, 4:12], small.fetch(indices))
    assert large.fetch(indices).sum() == small.fetch(indices).sum()


def test_built_from_its_config() -> None:
    config = DigitsConfig()
    images = DATA.build(config, "test", config.image_size, config.channels, config.memory_gb)
    assert len(images) == 180
