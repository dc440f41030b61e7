"""Training data for any Trainer, in an order that survives stops, resumes and other device counts."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, TypeGuard

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from diffexp.config.schemas.data import DATA, DataConfig
from diffexp.data.batches import InfiniteBatches, flip
from diffexp.data.images import ImageSet, MemoryImages, without_held_out
from diffexp.errors import UserError

Images = ImageSet | Callable[[], ImageSet]


class ImageDataModule(L.LightningDataModule):
    """Endless batches of images, positioned by the trainer's global step; see `InfiniteBatches`.

    Training ends by ``Trainer(max_steps=…, max_epochs=-1)``, never at the end of the data. The position counts
    optimiser steps, as ``trainer.global_step`` does with one optimiser; checkpoints belong at the end of a
    step, not between accumulated batches.

    Args:
        train: the training images, or what loads them; called by one process of each node first (which may
            download), then by the others.
        batch_size: images per optimiser step, over all devices, nodes and accumulated batches.
        seed: of the order and the mirroring.
        random_flip: mirror half of the images left to right.
        num_workers: processes that fetch batches beside the training process; 0 fetches in it.
        test: the test images or what loads them, for `images`; None if there are none.
        held_out: images like the training ones that are not trained on, or what loads them, for `images`.
    """

    def __init__(
        self,
        train: Images,
        batch_size: int,
        *,
        seed: int = 0,
        random_flip: bool = False,
        num_workers: int = 0,
        test: Images | None = None,
        held_out: Images | None = None,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.seed = seed
        self.random_flip = random_flip
        self.num_workers = num_workers
        self._resident: Tensor | None = None
        self._resident_labels: Tensor | None = None
        self._splits: dict[str, Images | None] = {"train": train, "held_out": held_out, "test": test}

    @classmethod
    def from_config(cls, data: DataConfig, batch_size: int, seed: int) -> "ImageDataModule":
        """The data that a config describes; nothing is loaded yet.

        Args:
            data: the image source.
            batch_size: images per optimiser step.
            seed: of the order and the mirroring.
        """

        def source(split: str) -> Callable[[], ImageSet]:
            return partial(DATA.build, data, split, data.image_size, data.channels, data.memory_gb)

        train, held_out = source("train"), None
        if data.held_out:
            parts = cache(lambda: without_held_out(source("train")(), data.held_out))
            train, held_out = (lambda: parts()[0]), (lambda: parts()[1])
        test = source("test")
        return cls(
            train,
            batch_size,
            seed=seed,
            random_flip=data.random_flip,
            num_workers=data.num_workers,
            test=test,
            held_out=held_out,
        )

    def images(self, split: str) -> ImageSet:
        """The images of "train", "held_out" or "test", loaded at the first call.

        Raises:
            UserError: if there is no such split, or it cannot be loaded.
        """
        images = self._splits[split]
        if images is None:
            raise UserError(f"there are no {split.replace('_', '-')} images")
        if not isinstance(images, ImageSet):
            images = self._splits[split] = images()
        return images

    def prepare_data(self) -> None:
        """Load the training images in the one process a node in which Lightning calls this."""
        self.images("train")

    def setup(self, stage: str) -> None:
        """Load the training images in the other processes."""
        self.images("train")

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """The batches from the trainer's next step on.

        Raises:
            UserError: if batch_size cannot be shared out evenly.
        """
        trainer = self.trainer
        assert trainer is not None
        world_size, accumulate = trainer.world_size, trainer.accumulate_grad_batches
        device = trainer.strategy.root_device
        if self.batch_size % (world_size * accumulate):
            raise UserError(
                f"a batch of {self.batch_size} images cannot be shared out evenly over {world_size} devices "
                f"and {accumulate} accumulated batches: choose a multiple of {world_size * accumulate}."
            )
        images = self.images("train")
        self._resident = self._resident_labels = None
        if resides(images, device):
            self._resident = images.images.to(device)
            self._resident_labels = None if images.labels is None else images.labels.to(device)
        batches = InfiniteBatches(
            images,
            self.batch_size,
            rank=trainer.global_rank,
            world_size=world_size,
            accumulate=accumulate,
            seed=self.seed,
            random_flip=self.random_flip,
            pixels=self._resident is None,
        )
        return _FromNextStep(trainer, batches, self.num_workers)

    def on_after_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        """Take the images from those that are on the device, where they are."""
        if self._resident is None:
            return batch
        index = batch["index"]
        images = self._resident.index_select(0, index)
        item = {"index": index, "images": flip(images, batch["mirrored"]) if self.random_flip else images}
        if self._resident_labels is not None:
            item["labels"] = self._resident_labels.index_select(0, index)
        return item


def resides(images: ImageSet, device: torch.device) -> TypeGuard[MemoryImages]:
    """Whether all images are kept on the device: on a GPU of which they take a tenth at most.

    Then all that goes there for a batch is the images' numbers, and which are mirrored.
    """
    if device.type != "cuda" or not isinstance(images, MemoryImages):
        return False
    total: int = torch.cuda.get_device_properties(device).total_memory
    return images.images.nbytes <= total / 10


class _FromNextStep(DataLoader[dict[str, Tensor]]):
    """Starts at the trainer's next step whenever it is iterated: a Trainer may cut training into epochs."""

    def __init__(self, trainer: L.Trainer, batches: InfiniteBatches, num_workers: int) -> None:
        # Workers are not persistent, because those would keep the position of the first iteration.
        on_gpu = trainer.strategy.root_device.type == "cuda"
        super().__init__(batches, batch_size=None, num_workers=num_workers, pin_memory=on_gpu)
        self._trainer = trainer
        self._batches = batches

    def __iter__(self) -> Any:
        self._batches.start_step = self._trainer.global_step
        try:
            yield from super().__iter__()
        except UserError as error:  # from a worker it comes with that process's traceback around the message
            raise UserError(str(error).rpartition("UserError: ")[2].strip()) from None
