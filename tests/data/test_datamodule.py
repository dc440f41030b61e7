from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from diffexp.config.schemas.data import DigitsConfig, ImageFolderConfig
from diffexp.data.batches import InfiniteBatches
from diffexp.data.datamodule import ImageDataModule, resides
from diffexp.data.images import ImageSet, MemoryImages
from diffexp.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")


def numbered(count: int) -> MemoryImages:
    images = torch.zeros(count, 1, 1, 2, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(1, count + 1)
    return MemoryImages(images)


class Watcher(L.LightningModule):
    """Keeps what it is trained on; saves a checkpoint after step `save_at`."""

    def __init__(self, save_at: int | None = None, checkpoint: Path | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[Tensor] = []
        self.save_at = save_at
        self.checkpoint = checkpoint

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.seen.append(batch["images"].clone())
        return self.weight.sum()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx + 1 == (self.save_at or 0) * self.trainer.accumulate_grad_batches:
            self.trainer.save_checkpoint(self.checkpoint)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(max_steps: int, **options: Any) -> L.Trainer:
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(max_steps=max_steps, max_epochs=-1, **quiet | options)


def expected(steps: int, **options: Any) -> Tensor:
    """The stream of 20 numbered images in batches of 12."""
    batches = InfiniteBatches(numbered(20), 12, seed=5, random_flip=True, **options)
    return torch.cat([batch["images"] for batch in islice(batches, steps)])


def data(**options: Any) -> ImageDataModule:
    return ImageDataModule(numbered(20), 12, seed=5, random_flip=True, **options)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_trainer_sees_the_stream_in_order(workers: int, accumulate: int) -> None:
    watcher = Watcher()
    trainer(7, accumulate_grad_batches=accumulate).fit(watcher, data(num_workers=workers))
    assert len(watcher.seen) == 7 * accumulate
    assert torch.equal(torch.cat(watcher.seen), expected(7))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_goes_on_with_the_next_images(tmp_path: Path, workers: int, accumulate: int) -> None:
    checkpoint = tmp_path / "step.ckpt"
    trainer(5, accumulate_grad_batches=accumulate).fit(Watcher(4, checkpoint), data(num_workers=workers))
    resumed = Watcher()
    resuming = trainer(9, accumulate_grad_batches=accumulate)
    resuming.fit(resumed, data(num_workers=workers), ckpt_path=checkpoint)
    assert resuming.global_step == 9
    assert torch.equal(torch.cat(resumed.seen), expected(9)[4 * 12 :])


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_lie_on_the_device_make_the_same_batches(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffexp.data.datamodule.resides", lambda images, device: True)
    watcher, images = Watcher(), data(num_workers=workers)
    monkeypatch.setattr(MemoryImages, "fetch", lambda *_: pytest.fail("pixels were fetched"))
    trainer(7, accumulate_grad_batches=3).fit(watcher, images)
    monkeypatch.undo()
    assert torch.equal(torch.cat(watcher.seen), expected(7))


@pytest.mark.parametrize("flip", [False, True])
def test_what_goes_to_the_device_is_what_it_lacks(flip: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffexp.data.datamodule.resides", lambda images, device: True)
    images = MemoryImages(numbered(20).images, torch.arange(20) % 3, ["a", "b", "c"])
    module = ImageDataModule(images, 12, seed=5, random_flip=flip)
    there: list[set[str]] = []
    labels: list[Tensor] = []

    class Labels(Watcher):
        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            labels.append((batch["labels"] == batch["index"] % 3).all())
            return super().training_step(batch, batch_idx)

        def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
            there.append(set(batch))
            return super().transfer_batch_to_device(batch, device, dataloader_idx)

    watcher = Labels()
    trainer(3).fit(watcher, module)
    assert there == [{"index", "mirrored"} if flip else {"index"}] * 3
    assert all(labels)
    assert len(labels) == 3


def test_a_second_trainer_elsewhere_fetches_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    images = data()
    monkeypatch.setattr("diffexp.data.datamodule.resides", lambda images, device: True)
    trainer(2).fit(Watcher(), images)
    monkeypatch.undo()
    watcher = Watcher()
    fetched: list[Tensor] = []
    fetch = MemoryImages.fetch
    monkeypatch.setattr(MemoryImages, "fetch", lambda self, indices: fetched.append(indices) or fetch(self, indices))
    trainer(3).fit(watcher, images)
    assert len(fetched) >= 3
    assert torch.equal(torch.cat(watcher.seen), expected(3))


def test_images_lie_on_no_cpu() -> None:
    assert not resides(numbered(3), torch.device("cpu"))


def test_epochs_cut_by_the_trainer_change_nothing() -> None:
    watcher = Watcher()
    trainer(11, limit_train_batches=3).fit(watcher, data())
    assert torch.equal(torch.cat(watcher.seen), expected(11))


def test_a_second_fit_goes_on() -> None:
    watcher, images = Watcher(), data()
    one = trainer(3)
    one.fit(watcher, images)
    one.fit_loop.epoch_loop.max_steps = 6
    one.fit(watcher, images)
    assert torch.equal(torch.cat(watcher.seen), expected(6))


def test_several_devices_share_a_batch() -> None:
    """What the data module makes of rank and world size; no second process is started."""

    class Second(L.Trainer):
        world_size = 2
        global_rank = 1

    images = data()
    images.trainer = Second(accelerator="cpu", logger=False, accumulate_grad_batches=3, enable_checkpointing=False)
    seen = torch.cat([batch["images"] for batch in islice(images.train_dataloader(), 6)])
    assert torch.equal(seen, expected(2).reshape(2, 3, 2, 2, 1, 1, 2)[:, :, 1].flatten(0, 2))


def test_a_batch_must_be_divisible() -> None:
    with pytest.raises(
        UserError, match=r"batch_size: expected a multiple of 5 \(1 devices × 5 accumulated batches\), got 12"
    ):
        trainer(1, accumulate_grad_batches=5).fit(Watcher(), data())


def test_images_are_loaded_once_and_not_before_they_are_needed() -> None:
    loads: list[str] = []

    def load() -> ImageSet:
        loads.append("train")
        return numbered(20)

    images = ImageDataModule(load, 12)
    assert loads == []
    trainer(2).fit(Watcher(), images)
    trainer(2).fit(Watcher(), images)
    assert images.images("train") is images.images("train")
    assert loads == ["train"]


def test_a_missing_test_split_is_an_error() -> None:
    with pytest.raises(UserError, match="data: expected test images, got none"):
        data().images("test")


def test_from_config() -> None:
    images = ImageDataModule.from_config(
        DigitsConfig(image_size=16, random_flip=True, num_workers=1), batch_size=8, seed=3
    )
    assert (images.batch_size, images.seed, images.random_flip, images.num_workers) == (8, 3, True, 1)
    assert len(images.images("train")) == 1617
    assert len(images.images("test")) == 180
    assert images.images("test").image_shape == (1, 16, 16)


@pytest.mark.parametrize("memory_gb", [4.0, 0.0])
def test_what_is_held_out_is_spread_evenly_and_never_trained_on(tmp_path: Path, memory_gb: float) -> None:
    for name in range(12):
        folder = tmp_path / ("low" if name < 6 else "high")
        folder.mkdir(exist_ok=True)
        Image.new("L", (2, 2), 20 * name).save(folder / f"{name:02}.png")
    config = ImageFolderConfig(path=str(tmp_path), image_size=2, channels=1, held_out=3, memory_gb=memory_gb)
    module = ImageDataModule.from_config(config, batch_size=9, seed=1)
    in_order = ImageDataModule.from_config(replace(config, held_out=0), 1, 1).images("train")
    levels = in_order.fetch(torch.arange(12))[:, 0, 0, 0].tolist()

    kept, held_out = module.images("train"), module.images("held_out")
    assert in_order.labels is not None
    for images, expected_indices in ((held_out, [0, 4, 8]), (kept, [1, 2, 3, 5, 6, 7, 9, 10, 11])):
        indices = torch.arange(len(images))
        assert images.fetch(indices)[:, 0, 0, 0].tolist() == [levels[index] for index in expected_indices]
        assert images.labels is not None
        assert images.labels.tolist() == in_order.labels[expected_indices].tolist()
        assert images.class_names == in_order.class_names
    assert isinstance(kept, MemoryImages) == isinstance(held_out, MemoryImages) == (memory_gb > 0)
    watcher = Watcher()
    trainer(5).fit(watcher, module)
    trained_on = {level for batch in watcher.seen for level in batch[:, 0, 0, 0].tolist()}
    assert trained_on == {levels[index] for index in [1, 2, 3, 5, 6, 7, 9, 10, 11]}


def test_nothing_is_held_out_unless_asked_for_and_something_is_left() -> None:
    with pytest.raises(UserError, match="data: expected held-out images, got none"):
        ImageDataModule.from_config(DigitsConfig(), 8, 3).images("held_out")
    greedy = ImageDataModule.from_config(DigitsConfig(held_out=1617), 8, 3)
    with pytest.raises(UserError, match=r"data\.held_out: expected fewer than the 1617 images.*Hold out fewer"):
        greedy.images("train")


def test_nothing_is_loaded_from_a_config_before_it_is_needed() -> None:
    images = ImageDataModule.from_config(ImageFolderConfig(path="/nowhere"), batch_size=8, seed=3)
    with pytest.raises(UserError, match="/nowhere: expected a folder or a zip"):
        images.setup("fit")
