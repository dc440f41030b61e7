"""Files that are lost or damaged after a run began: the others keep their places, in the run and when it resumes."""

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffexp.config.schemas.data import ImageFolderConfig
from diffexp.data.datamodule import ImageDataModule
from diffexp.data.image_folder import load
from diffexp.data.places import only_lost
from diffexp.errors import EnvironmentFailure, UserError
from diffexp.system import notices
from tests.data.test_datamodule import Watcher, trainer
from tests.helpers.image_places import write_zip
from tests.helpers.small import SMALL, diffexp, start

COUNT = 12
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images 0 to 11 of grey level 20 · number, in two classes of six."""
    for number in range(COUNT):
        path = tmp_path / "images" / "ab"[number // 6] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2), 20 * number).save(path)
    return tmp_path / "images"


def config(folder: Path, **keys: object) -> ImageFolderConfig:
    usual = {"image_size": 2, "channels": 1, "memory_gb": 0, "on_decode_error": "skip"}
    return ImageFolderConfig(path=str(folder), **(usual | keys))


def module(wanted: ImageFolderConfig) -> ImageDataModule:
    return ImageDataModule.from_config(wanted, batch_size=4, seed=1)


def trained_on(data: ImageDataModule) -> tuple[list[int], list[int]]:
    """The numbers and the labels of the images of six steps, which are two passes."""

    class Noting(Watcher):
        labels: list[int]

        def training_step(self, batch, index):  # type: ignore[no-untyped-def]
            self.labels.extend(batch["labels"].tolist())
            return super().training_step(batch, index)

    watcher = Noting()
    watcher.labels = []
    trainer(6).fit(watcher, data)
    return [level // 20 for batch in watcher.seen for level in batch[:, 0, 0, 0].tolist()], watcher.labels


def damage(path: Path) -> None:
    path.write_bytes(b"damaged")


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_image_takes_the_place_of_one_damaged_meanwhile(
    folder: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    before, _ = trained_on(module(config(folder)))
    data = module(config(folder, num_workers=workers))
    data.images("train")
    damage(folder / "a/05.png")
    (folder / "b/11.png").unlink()
    notices.warn_once.cache_clear()
    numbers, labels = trained_on(data)
    instead = {5: 6, 11: 0}
    assert numbers == [instead.get(number, number) for number in before]
    assert labels == [number // 6 for number in numbers]  # its own class, not that of the place
    printed = [record.getMessage() for record in caplog.records if "takes its place" in record.getMessage()]
    assert len(printed) == 2
    assert any("a/05.png (" in message and message.endswith("b/06.png takes its place.") for message in printed)
    assert any("b/11.png (No such file" in message and "a/00.png takes its place" in message for message in printed)


@pytest.mark.parametrize("memory_gb", [0, 1])
@pytest.mark.parametrize("held_out", [0, 3])
def test_places_are_kept_on_resume(
    folder: Path, memory_gb: float, held_out: int, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = config(folder, held_out=held_out, memory_gb=memory_gb)
    first = module(wanted)
    before, _ = trained_on(first)
    record = first.state_dict()
    damage(folder / "a/05.png")
    (folder / "b/11.png").unlink()
    resumed = module(wanted)
    assert only_lost(resumed.images("train"), record)
    resumed.load_state_dict(record)
    numbers, labels = trained_on(resumed)
    first_left = 1 if held_out else 0  # 0, 4 and 8 are held out
    assert numbers == [{5: 6, 11: first_left}.get(number, number) for number in before]
    assert labels == [number // 6 for number in numbers]
    assert "2 of the run's 12 training images are lost: a/05.png, b/11.png" in caplog.text
    assert resumed.state_dict() == record


def test_what_was_lost_and_restored_changes_nothing(folder: Path) -> None:
    good = (folder / "a/03.png").read_bytes()
    damage(folder / "a/03.png")
    first = module(config(folder))
    before, _ = trained_on(first)
    (folder / "a/03.png").write_bytes(good)
    resumed = module(config(folder))
    assert only_lost(resumed.images("train"), first.state_dict())
    resumed.load_state_dict(first.state_dict())
    assert trained_on(resumed)[0] == before


def test_other_images_are_not_lost_ones(folder: Path) -> None:
    first = module(config(folder))
    first.images("train")
    record = first.state_dict()
    Image.new("L", (2, 2), 7).save(folder / "a/03.png")
    (folder / "a/04.png").unlink()
    assert not only_lost(module(config(folder)).images("train"), record)
    shutil.copy(folder / "a/02.png", folder / "a/99.png")
    assert not only_lost(module(config(folder)).images("train"), record)
    assert not only_lost(module(config(folder)).images("train"), {})


def test_refusing_names_the_file_and_the_remedy(folder: Path) -> None:
    images = module(config(folder, on_decode_error="refuse")).images("train")
    damage(folder / "a/05.png")
    with pytest.raises(UserError, match=r"cannot decode a/05\.png \(.*data\.on_decode_error=skip"):
        images.fetch(torch.arange(COUNT))


def test_nothing_left_is_an_error(folder: Path) -> None:
    images = module(config(folder)).images("train")
    for file in folder.rglob("*.png"):
        damage(file)
    with pytest.raises(UserError, match="cannot decode any of 12 files: a/00"):
        images.fetch(torch.arange(2))


# --- failures of the machine


@pytest.mark.parametrize(
    ("number", "workers"),
    [
        (errno.EIO, 0),
        (errno.ESTALE, 0),
        (errno.ENOTCONN, 0),
        (errno.EMFILE, 0),
        pytest.param(errno.EIO, 1, marks=pytest.mark.slow),
    ],
)
def test_a_failing_disk_is_no_damaged_file(
    folder: Path, number: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = module(config(folder, num_workers=workers))
    data.images("train")
    real = os.open

    def failing(path, *rest, **named):  # type: ignore[no-untyped-def]
        if str(path).endswith("05.png"):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *rest, **named)

    monkeypatch.setattr(os, "open", failing)
    with pytest.raises(EnvironmentFailure, match=rf"^{folder}: cannot be read: {os.strerror(number)}\. Check the disk"):
        trained_on(data)
    for memory_gb in (0, 1):
        with pytest.raises(EnvironmentFailure, match=os.strerror(number)):
            load("train", 2, 1, memory_gb, path=str(folder), on_decode_error="skip")


def test_a_failing_listing_loses_no_folder_silently(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def failing(path):  # type: ignore[no-untyped-def]
        if str(path).endswith("/b"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(EnvironmentFailure, match="cannot be read: Input/output error"):
        load("train", 2, 1, 1, path=str(folder))


@pytest.mark.parametrize("gone", [".", "b"])
def test_a_folder_that_vanishes_is_a_failure_of_the_machine(folder: Path, gone: str) -> None:
    images = module(config(folder)).images("train")
    (folder / gone).rename(folder.parent / "elsewhere")
    with pytest.raises(EnvironmentFailure, match="the folder has vanished"):
        images.fetch(torch.arange(COUNT))


def test_an_unmounted_folder_is_a_failure_of_the_machine(tmp_path: Path) -> None:
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    images = load("train", 2, 1, 0, path=str(tmp_path), on_decode_error="skip")
    (tmp_path / "a.png").unlink()
    with pytest.raises(EnvironmentFailure, match="the folder has vanished"):
        images.fetch(torch.tensor([0]))


def test_a_zip_that_vanishes_is_a_failure_of_the_machine(folder: Path, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "images.zip", {file.name: file.read_bytes() for file in folder.rglob("*.png")})
    images = load("train", 2, 1, 0, path=str(path), on_decode_error="skip")
    images.files._opened = None  # type: ignore[attr-defined]  # as in a new worker
    path.unlink()
    with pytest.raises(EnvironmentFailure, match=r"images\.zip: the file has vanished"):
        images.fetch(torch.arange(3))


@pytest.mark.slow
def test_a_training_survives_lost_files_and_a_folder_that_is_away_for_a_while(folder: Path, tmp_path: Path) -> None:
    keys = replace(config(folder, num_workers=1))
    words = [f"data.{key}={getattr(keys, key)}" for key in ("path", "image_size", "channels", "memory_gb")]
    words += ["data.name=image_folder", "data.num_workers=1", "data.image_size=8", "training.max_steps=100000"]
    words += ["checkpoint.every=5", "sample_grid=null", "training.batch_size=4", "run_dir=run"]
    process = start("train", "digits", *SMALL, *words, "data.on_decode_error=skip", cwd=tmp_path)
    checkpoints = tmp_path / "run" / "checkpoints"
    while not checkpoints.is_dir() or not any(checkpoints.iterdir()):
        assert process.poll() is None
    damage(folder / "a/05.png")
    (folder / "b").rename(tmp_path / "away")
    _, printed = process.communicate(timeout=120)
    assert process.returncode == 1, printed
    assert "images/b: the folder has vanished. Restore or mount it, then try again." in printed
    assert "Traceback" not in printed
    (tmp_path / "away").rename(folder / "b")
    folder.rename(tmp_path / "unmounted")
    waits = diffexp("train", "run", "--resume", cwd=tmp_path, expect=1).stderr
    assert "which does not exist. The run has read it before. Restore or mount it, or set" in waits
    (tmp_path / "unmounted").rename(folder)
    (folder / "a/05.png").unlink()
    latest = max(int(file.stem.split("-")[1]) for file in checkpoints.iterdir())
    stay = ["train", "run", "--resume", f"training.max_steps={latest + 5}"]
    refused = diffexp(*stay, "data.on_decode_error=refuse", cwd=tmp_path, expect=2)
    assert "set data.on_decode_error=skip" in refused.stderr
    done = diffexp(*stay, cwd=tmp_path)
    assert "1 of the run's 12 training images are lost: a/05.png" in done.stderr
