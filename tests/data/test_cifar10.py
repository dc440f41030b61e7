import hashlib
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from diffexp.data.cifar10 import load
from diffexp.errors import UserError


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)


@pytest.fixture
def batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CIFAR-10 of two training batches of four images, whose checksums torchvision takes for the right ones."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def write(name: str, content: object) -> list[str]:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    def batch(seed: int) -> dict[str, object]:
        return {"data": pixels(seed).reshape(4, -1), "labels": [seed, 1, 2, 3]}

    monkeypatch.setattr(CIFAR10, "train_list", [write(f"data_batch_{seed}", batch(seed)) for seed in (1, 2)])
    monkeypatch.setattr(CIFAR10, "test_list", [write("test_batch", batch(3))])
    name, checksum = write("batches.meta", {"label_names": ["airplane", "automobile", "bird", "cat"]})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": checksum})

    def unreachable(*_: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("socket.socket.connect", unreachable)
    monkeypatch.setattr("socket.getaddrinfo", unreachable)
    return folder


def test_images_and_labels_are_those_of_the_batches(batches: Path) -> None:
    train, test = (load(split, 32, 3, 4.0, root=str(batches.parent)) for split in ("train", "test"))
    assert np.array_equal(train.fetch(torch.arange(8)).numpy(), np.concatenate([pixels(1), pixels(2)]))
    assert np.array_equal(test.fetch(torch.arange(4)).numpy(), pixels(3))
    assert train.labels is not None
    assert train.labels.tolist() == [1, 1, 2, 3, 2, 1, 2, 3]
    assert train.class_names == ["airplane", "automobile", "bird", "cat"]


def test_larger_images_are_padded(batches: Path) -> None:
    image = load("test", 36, 3, 4.0, root=str(batches.parent)).fetch(torch.tensor([0]))[0]
    assert np.array_equal(image[:, 2:34, 2:34].numpy(), pixels(3)[0])
    assert image.sum() == int(pixels(3)[0].sum())


@pytest.mark.parametrize("damaged", ["data_batch_2", "batches.meta"])
def test_damaged_files_are_not_used(batches: Path, damaged: str) -> None:
    (batches / damaged).write_bytes((batches / damaged).read_bytes()[:-1])
    with pytest.raises(
        UserError, match=r"batches-py: files are missing .*unreachable.*Download cifar-10-python.tar.gz from .* into "
    ):
        load("train", 32, 3, 4.0, root=str(batches.parent))
    assert [path.name for path in batches.parent.iterdir()] == [batches.name]


def test_the_archive_is_unpacked_without_a_network(
    batches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "elsewhere"
    root.mkdir()
    archive = root / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(batches, batches.name)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert len(load("train", 32, 3, 4.0, root=str(root))) == 8
    assert sorted(path.name for path in root.iterdir()) == ["cifar-10-batches-py", "cifar-10-python.tar.gz"]
