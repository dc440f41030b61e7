import io
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from diffexp.config.schemas.data import DATA, ImageFolderConfig
from diffexp.data import image_files
from diffexp.data.archives import FolderFiles
from diffexp.data.batches import InfiniteBatches
from diffexp.data.image_files import StoredImages
from diffexp.data.image_folder import load
from diffexp.data.images import MemoryImages
from diffexp.errors import UserError
from tests.helpers.image_places import (
    IN_MEMORY,
    ON_DISK,
    TWO_CLASSES,
    Pack,
    noise_png,
    png,
    read,
    values,
    write_folder,
    write_zip,
)


@pytest.mark.parametrize(("memory_gb", "kind"), [(IN_MEMORY, MemoryImages), (ON_DISK, StoredImages)])
@pytest.mark.parametrize("around", ["", "wrapper/", "two/wrappers/"])
def test_first_level_folders_are_classes(pack: Pack, around: str, memory_gb: float, kind: type) -> None:
    images = read(pack({around + name: data for name, data in TWO_CLASSES.items()}), memory_gb=memory_gb)
    assert isinstance(images, kind)
    assert images.class_names == ["cat", "dog"]
    assert images.labels is not None
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert values(images) == [1, 2, 4, 3]  # sorted: "10" < "9", "2.png" < "deep"
    assert images.image_shape == (1, 4, 4)


def test_images_without_folders_are_unlabelled(pack: Pack) -> None:
    images = read(pack({"b.png": png(2), "a.png": png(1)}))
    assert (images.labels, images.class_names) == (None, None)
    assert values(images) == [1, 2]


def test_images_beside_folders_are_all_unlabelled(pack: Pack, caplog: pytest.LogCaptureFixture) -> None:
    images = read(pack({"z.png": png(1), "cat/a.png": png(2)}))
    assert (images.labels, images.class_names) == (None, None)
    assert values(images) == [2, 1]
    assert "1 of 2 images are in no sub-folder" in caplog.text


def test_hidden_and_other_files_are_skipped(pack: Pack, caplog: pytest.LogCaptureFixture) -> None:
    junk = {
        "cat/.x.png": png(9),
        ".git/a.png": png(9),
        "__MACOSX/cat/._10.png": b"",
        "cat/notes.txt": b"",
        "a.npy": b"",
    }
    path = pack(TWO_CLASSES | junk)
    for memory_gb in (IN_MEMORY, ON_DISK):  # the warning comes once
        assert values(read(path, memory_gb=memory_gb)) == [1, 2, 4, 3]
    [warning] = caplog.messages
    assert warning == f"{path}: diffexp skips files that PIL cannot read: 1 like a.npy, 1 like cat/notes.txt."


@pytest.mark.parametrize("kind", ["ppm", "PGM", "pbm", "jfif", "avif", "qoi", "tga", "jp2", "pcx"])
def test_every_format_that_pil_decodes_is_read(pack: Pack, kind: str) -> None:
    format_ = Image.registered_extensions().get(f".{kind.lower()}")
    if format_ not in Image.OPEN or format_ not in Image.SAVE:
        pytest.skip("this PIL cannot write it")
    file = io.BytesIO()
    mode = "1" if kind == "pbm" else "RGB" if kind in ("ppm", "qoi", "avif", "jfif") else "L"
    Image.new(mode, (4, 4), "white").save(file, format_)
    images = read(pack({"deep/a.png": png(1), f"deep/b.{kind}": file.getvalue()}))
    assert values(images)[0] == 1
    assert values(images)[1] >= 253


def test_backslashes_in_a_zip_separate_folders(tmp_path: Path) -> None:
    images = read(write_zip(tmp_path / "windows.zip", {"cat\\1.png": png(1), "dog\\2.png": png(2)}))
    assert images.class_names == ["cat", "dog"]


def test_of_two_members_of_a_name_the_last_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "twice.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", png(1))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.png", png(2))
    assert values(read(path)) == [2]
    assert "1 of 2 files have the name of a later file" in caplog.text


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    write_folder(tmp_path / "elsewhere", {"a.png": png(7)})
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "cat").symlink_to(tmp_path / "elsewhere")
    assert values(read(tmp_path / "images")) == [7]


def test_memory_and_disk_give_the_same_pixels(pack: Pack) -> None:
    path = pack({f"{seed}.png": noise_png(seed) for seed in range(150)})
    memory, disk = (load("train", 16, 3, memory_gb, path=str(path)) for memory_gb in (IN_MEMORY, ON_DISK))
    indices = torch.randperm(150, generator=torch.Generator().manual_seed(0))
    assert torch.equal(memory.fetch(indices), disk.fetch(indices))


def test_threads_keep_the_order(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "WORTH_THREADS", 0.0)
    monkeypatch.setattr(image_files, "CHUNK", 3)
    assert values(read(pack({f"{value:03}.png": png(value) for value in range(200)}))) == list(range(200))


def test_the_limit_is_the_size_of_the_split_in_gib(tmp_path: Path) -> None:
    path = write_folder(tmp_path, TWO_CLASSES)
    size = 4 * 16 / 2**30
    assert isinstance(read(path, memory_gb=size), MemoryImages)
    assert isinstance(read(path, memory_gb=size * 0.99), StoredImages)


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_read_the_same_files(pack: Pack, workers: int) -> None:
    path = pack({f"{value:03}.png": png(value) for value in range(100)})
    images = read(path, memory_gb=ON_DISK)
    assert values(images) == list(range(100))  # the zip is now open in this process
    batches = InfiniteBatches(images, 10, seed=1)
    expected, loaded = iter(batches), iter(DataLoader(batches, batch_size=None, num_workers=workers))
    for _ in range(12):
        assert torch.equal(next(loaded)["images"], next(expected)["images"])


def test_sets_can_be_sent_to_other_processes(pack: Pack) -> None:
    images = read(pack(TWO_CLASSES), memory_gb=ON_DISK)
    values(images)
    assert values(pickle.loads(pickle.dumps(images))) == values(images)


# --- splits


def test_the_split_is_a_hash_of_the_name(pack: Pack) -> None:
    files = {f"{'ab'[value % 2]}/{value:03}.png": png(value) for value in range(200)}
    path = pack(files)
    train, test = (read(path, split, test_fraction=0.25) for split in ("train", "test"))
    assert sorted(values(train) + values(test)) == list(range(200))
    assert 30 <= len(test) <= 70
    assert train.class_names == test.class_names == ["a", "b"]
    assert test.labels is not None
    assert set(test.labels.tolist()) == {0, 1}


def test_new_files_move_no_other_between_splits(tmp_path: Path) -> None:
    files = {f"{value:03}.png": png(value) for value in range(250)}
    few = write_folder(tmp_path / "few", dict(list(files.items())[::2]))
    all_of_them = write_zip(tmp_path / "all.zip", files)
    before, after = (set(values(read(path, "test", test_fraction=0.3))) for path in (few, all_of_them))
    assert before == after & set(range(0, 250, 2))
    assert before


def test_the_split_never_changes(tmp_path: Path) -> None:
    """These names were drawn once; a run made with an older version must find the same test split."""
    path = write_folder(tmp_path, {f"{value}.png": png(value) for value in range(10)})
    assert values(read(path, "test", test_fraction=0.5)) == [3, 5, 7]


def test_a_larger_fraction_only_adds(tmp_path: Path) -> None:
    path = write_folder(tmp_path, {f"{value:03}.png": png(value) for value in range(100)})
    small, large = (set(values(read(path, "test", test_fraction=share))) for share in (0.2, 0.4))
    assert small < large


def test_a_second_place_is_the_test_split(tmp_path: Path) -> None:
    train = write_folder(tmp_path / "train", TWO_CLASSES | {"ant/1.png": png(8)})
    test = write_zip(tmp_path / "test.zip", {"dog/1.png": png(5), "cat/1.png": png(6)})
    images = read(train, "test", test_path=str(test), test_fraction=0.5)
    assert values(images) == [6, 5]
    assert images.class_names == ["ant", "cat", "dog"]
    assert images.labels is not None
    assert images.labels.tolist() == [1, 2]  # numbered as in training
    assert len(read(train, "train", test_path=str(test), test_fraction=0.5)) == 5


def test_test_classes_must_be_known(tmp_path: Path) -> None:
    train = write_folder(tmp_path / "train", TWO_CLASSES)
    test = write_folder(tmp_path / "test", {"cow/1.png": png(5), "dog/1.png": png(6)})
    with pytest.raises(UserError, match=r"test: expected the classes of .*train, got also cow\."):
        read(train, "test", test_path=str(test))


def test_a_test_split_must_be_asked_for(pack: Pack) -> None:
    with pytest.raises(
        UserError, match=r"expected a test split, got none\. Set data\.test_path or data\.test_fraction"
    ):
        read(pack(TWO_CLASSES), "test")


def test_a_split_must_not_be_empty(pack: Pack) -> None:
    path = pack({"a.png": png(1)})
    message = r"data\.test_fraction: expected .* one of the 1 images in .* test split, got 1e-09\. Raise it\."
    with pytest.raises(UserError, match=message):
        read(path, "test", test_fraction=1e-9)
    with pytest.raises(UserError, match=r"in the train split, got .*\. Lower it\."):
        read(path, "train", test_fraction=1 - 1e-9)


def test_built_from_its_config(pack: Pack) -> None:
    config = ImageFolderConfig(path=str(pack(TWO_CLASSES)), image_size=8, channels=3)
    images = DATA.build(config, "train", config.image_size, config.channels, config.memory_gb)
    assert images.image_shape == (3, 8, 8)
    assert values(images) == [1, 2, 4, 3]


def test_nothing_is_written_beside_a_zip(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "images.zip", TWO_CLASSES | {"../escape.png": png(1)})
    read(path)
    assert os.listdir(tmp_path) == ["images.zip"]
    assert not (tmp_path.parent / "escape.png").exists()


def test_a_link_back_does_not_go_round(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name in ("a/1.png", "b/2.png"):
        Image.new("L", (4, 4)).save(tmp_path / name)
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert FolderFiles(tmp_path).names == ["a/1.png", "b/2.png"]


# --- memory


def test_images_stay_on_disk_if_they_exceed_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_folder(tmp_path / "images", {f"{number}.png": png(number) for number in range(4)})
    for there, kind in ((64 * 4 / 3, MemoryImages), (64, StoredImages)):
        monkeypatch.setattr(image_files, "machine_memory", lambda there=there: there)
        assert isinstance(read(path, memory_gb=1), kind)
        assert values(read(path, memory_gb=1)) == [0, 1, 2, 3]
    assert "data.memory_gb: expected at most the 5.96e-08 GiB of memory here, got 1." in caplog.text
