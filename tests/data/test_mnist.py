import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diffexp.config.schemas.data import DATA, FashionMnistConfig, MnistConfig
from diffexp.data import fashion_mnist as fashion_mnist_module
from diffexp.data.fashion_mnist import DEBIAN_FASHION_MNIST
from diffexp.data.fashion_mnist import load as fashion_mnist
from diffexp.data.idx import read_idx
from diffexp.data.mnist import load as mnist
from diffexp.errors import UserError
from tests.helpers.needs import idx_bytes


def write(folder: Path, prefix: str, count: int, *, separator: str = "-", packed: bool = False, first: int = 0) -> None:
    """`count` images, the first all `first`, the next all `first` + 1, …; labels 0, 1, … ."""
    folder.mkdir(parents=True, exist_ok=True)
    values = np.arange(first, first + count, dtype=np.uint8)
    images = np.broadcast_to(values[:, None, None], (count, 28, 28))
    for kind, array in (("images", images), ("labels", np.arange(count, dtype=np.uint8) % 10)):
        data = idx_bytes(array)
        name = f"{prefix}-{kind}{separator}idx{array.ndim}-ubyte"
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(data) if packed else data)


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that is down, and no Debian package."""

    def unreachable(*_: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("socket.socket.connect", unreachable)
    monkeypatch.setattr("socket.getaddrinfo", unreachable)
    module = fashion_mnist_module
    monkeypatch.setattr(module, "_FASHION_MNIST", replace(module._FASHION_MNIST, elsewhere=()))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("separator", ["-", "."])
@pytest.mark.parametrize("folder", ["MNIST/raw", "MNIST", "mnist", "."])
def test_files_are_found_under_their_usual_names(tmp_path: Path, folder: str, separator: str, packed: bool) -> None:
    write(tmp_path / folder, "train", 12, separator=separator, packed=packed)
    write(tmp_path / folder, "t10k", 3, separator=separator, packed=packed, first=100)
    train, test = mnist("train", 32, 1, 4.0, root=str(tmp_path)), mnist("test", 28, 1, 4.0, root=str(tmp_path))
    assert train.labels is not None
    assert train.labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    image = train.fetch(torch.tensor([7]))[0, 0]
    assert (image[2:30, 2:30] == 7).all()
    assert image.sum() == 7 * 28 * 28
    assert test.fetch(torch.arange(3))[:, 0, 0, 0].tolist() == [100, 101, 102]


def test_the_more_telling_folder_wins(tmp_path: Path) -> None:
    write(tmp_path / "MNIST/raw", "train", 1, first=1)
    write(tmp_path / "FashionMNIST/raw", "train", 1, first=2)
    write(tmp_path, "train", 1, first=3)
    first = torch.tensor([0])
    assert mnist("train", 28, 1, 4.0, root=str(tmp_path)).fetch(first).unique() == 1
    assert fashion_mnist("train", 28, 1, 4.0, root=str(tmp_path)).fetch(first).unique() == 2


def test_built_from_its_config(tmp_path: Path) -> None:
    write(tmp_path, "train", 2)
    config = MnistConfig(root=str(tmp_path))
    assert DATA.build(config, "train", 32, 1, 4.0).image_shape == (1, 32, 32)


@pytest.mark.usefixtures("real_fashion_mnist")
def test_debians_fashion_mnist_is_the_real_one(tmp_path: Path) -> None:
    config = FashionMnistConfig(root=str(tmp_path))
    train, test = (DATA.build(config, split, 32, 1, 4.0) for split in ("train", "test"))
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.labels[:4].tolist() == [9, 0, 0, 3]
    assert [train.class_names[label] for label in train.labels[:2]] == ["Ankle boot", "T-shirt/top"]
    assert torch.bincount(train.labels).tolist() == [6_000] * 10
    assert torch.bincount(test.labels).tolist() == [1_000] * 10
    # the published mean and deviation of the training pixels
    pixels = train.images[..., 2:30, 2:30].float() / 255
    assert pixels.mean().item() == pytest.approx(0.2860, abs=5e-5)
    assert pixels.std().item() == pytest.approx(0.3530, abs=5e-5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("real_fashion_mnist")
def test_the_package_is_looked_for_where_debian_puts_it() -> None:
    assert len(list(DEBIAN_FASHION_MNIST.glob("*-ubyte.gz"))) == 4


@pytest.mark.usefixtures("no_download")
@pytest.mark.parametrize(
    ("load", "hint"), [(mnist, "into that folder.$"), (fashion_mnist, "apt install dataset-fashion-mnist")]
)
def test_a_failed_download_says_what_to_do_and_leaves_nothing(tmp_path: Path, load: Callable, hint: str) -> None:
    with pytest.raises(
        UserError,
        match=r"raw: files are missing or damaged, and the download failed: .*unreachable.*train-images-idx3-ubyte.gz",
    ) as caught:
        load("train", 28, 1, 4.0, root=str(tmp_path))
    assert caught.match(hint)
    assert not tmp_path.exists() or list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_download")
def test_a_download_is_moved_into_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Downloaded:
        def __init__(self, directory: str, download: bool) -> None:
            write(Path(directory, "MNIST/raw"), "train", 5, packed=True)

    monkeypatch.setattr("torchvision.datasets.MNIST", Downloaded)
    assert len(mnist("train", 28, 1, 4.0, root=str(tmp_path / "new"))) == 5
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
    ]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["MNIST"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected an idx file"),
        (b"GIF89a" + bytes(100), "expected an idx file"),
        (idx_bytes(np.zeros((3, 4), np.uint8))[:9], "expected an idx file"),
        (idx_bytes(np.zeros((3, 4), np.uint8))[:-1], "expected 3×4 > 0 bytes, as declared, got 11"),
        (idx_bytes(np.zeros((3, 4), np.uint8)) + b"!", "expected 3×4 > 0 bytes, as declared, got 13"),
        (idx_bytes(np.zeros((0, 4), np.uint8)), "expected 0×4 > 0 bytes"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"{path}: {message}.*Replace the file"):
        read_idx(path)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-20], lambda data: b"no" + data, lambda data: data[:40] + data[60:]]
)
def test_damaged_gzips_are_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    noise = np.random.default_rng(0).integers(0, 256, (10, 28), dtype=np.uint8)
    path.write_bytes(damage(gzip.compress(idx_bytes(noise))))
    with pytest.raises(UserError, match=f"{path}: expected a readable file, got: .*Replace the file"):
        read_idx(path)


def test_labels_must_fit_the_images(tmp_path: Path) -> None:
    write(tmp_path, "train", 5)
    labels = tmp_path / "train-labels-idx1-ubyte"
    labels.write_bytes(idx_bytes(np.zeros(4, np.uint8)))
    with pytest.raises(UserError, match=f"{labels}: expected 5 labels, as in .*train-images.*, got 4"):
        mnist("train", 28, 1, 4.0, root=str(tmp_path))
    labels.write_bytes(idx_bytes(np.full(5, 10, np.uint8)))
    with pytest.raises(UserError, match=f"{labels}: expected labels 0 to 9, got 10"):
        mnist("train", 28, 1, 4.0, root=str(tmp_path))


def test_images_must_have_28_pixels_a_side(tmp_path: Path) -> None:
    write(tmp_path, "train", 5)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((5, 32, 32), np.uint8)))
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte: expected images \(N, 28, 28\), got \(5, 32, 32\)"):
        mnist("train", 28, 1, 4.0, root=str(tmp_path))
