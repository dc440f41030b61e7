"""Training data for any Trainer, in an order that does not depend on stops, resumes and the number of devices."""

import logging
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, TypeGuard

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from diffexp.config.schemas.data import DATA, DataConfig
from diffexp.data.batches import InfiniteBatches, flip
from diffexp.data.images import ImageSet, MemoryImages, divided, without_held_out
from diffexp.data.places import in_places, recorded, recorded_names
from diffexp.errors import EnvironmentFailure, UserError
from diffexp.formatting import listed
from diffexp.system.distributed import is_main_process
from diffexp.system.notices import warn_once
from diffexp.system.signals import exit_when_parent_terminates, signals_blocked

log = logging.getLogger(__name__)

Images = ImageSet | Callable[[], ImageSet]


class ImageDataModule(L.LightningDataModule):
    """Endless batches of images that start at the trainer's global step; see `InfiniteBatches`.

    Training ends by ``Trainer(max_steps=…, max_epochs=-1)``, never at the end of the data. The position counts
    optimiser steps, as ``trainer.global_step`` does with one optimiser. Save checkpoints at the end of a step, not
    between accumulated batches.

    Args:
        train: the training images, or a function that loads them. One process of each node calls it first (and may
            download), then the others.
        batch_size: images per optimiser step, over all devices, nodes and accumulated batches.
        seed: seed of order and mirroring.
        random_flip: mirror each image left to right with probability 1/2.
        num_workers: number of processes that fetch batches; 0 fetches in the training process.
        test: the test images or a function that loads them, for `images`; None if there are none.
        held_out: images held out of the training set or a function that loads them, for `images`; None if there are
            none.
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
        self._whole: Callable[[], ImageSet] | None = None  # loads the train split of a config, with what is held out
        self._held_out = 0
        self._names: list[str] = []  # of the files of the train split, with what is held out
        self._places: Callable[[], Mapping[str, Any]] = dict  # of the same; see `diffexp.data.places`

    @classmethod
    def from_config(cls, data: DataConfig, batch_size: int, seed: int) -> "ImageDataModule":
        """Build the data module of a config, without loading anything yet.

        Args:
            data: config of the image source.
            batch_size: images per optimiser step.
            seed: seed of order and mirroring.
        """

        def source(split: str) -> Callable[[], ImageSet]:
            return partial(DATA.build, data, split, data.image_size, data.channels, data.memory_gb)

        module = cls(
            source("train"),
            batch_size,
            seed=seed,
            random_flip=data.random_flip,
            num_workers=data.num_workers,
            test=source("test"),
        )
        module._whole, module._held_out = source("train"), data.held_out
        return module

    def images(self, split: str) -> ImageSet:
        """Return the images of "train", "held_out" or "test", loading them at the first call.

        Raises:
            UserError: if there is no such split, or it cannot be loaded.
        """
        of_whole = split == "train" or (split == "held_out" and self._held_out > 0)
        if self._whole is not None and of_whole and not isinstance(self._splits[split], ImageSet):
            self._load_whole(self._whole())
        images = self._splits[split]
        if images is None:
            raise UserError(f"data: expected {split.replace('_', '-')} images, got none.")
        if not isinstance(images, ImageSet):
            images = self._splits[split] = images()
        return images

    def _load_whole(self, whole: ImageSet) -> None:
        """Take the parts of the train split of a config, in the recorded places if there are any."""
        parts: tuple[ImageSet, ImageSet | None]
        if self._names:
            parts_of_names = divided(len(self._names), self._held_out)
            kept, held_out = ([self._names[index] for index in part.tolist()] for part in parts_of_names)
            parts = in_places(whole, kept), in_places(whole, held_out) if held_out else None
        else:
            self._names = whole.names or []
            self._places = _places_of(whole)
            parts = without_held_out(whole, self._held_out) if self._held_out else (whole, None)
        self._splits["train"], self._splits["held_out"] = parts

    def state_dict(self) -> dict[str, Any]:
        """Return the places of the training images, if they are files; {} otherwise."""
        return dict(self._places())

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Give the training images the places that they had when the run began, whichever files are lost since."""
        names = recorded_names(state_dict)
        if self._whole is None or names == self._names:
            return
        there = set(self._names)
        lost = [name for name in names if name not in there]
        self._names, self._places = names, lambda: state_dict
        self._load_whole(self._whole())
        if lost and is_main_process():
            log.warning(
                "data: %d of the run's %d training images are lost: %s. The next image takes the place of each.",
                *(len(lost), len(names), listed(lost)),
            )

    def prepare_data(self) -> None:
        """Load the training images, in the one process per node in which Lightning calls this."""
        self.images("train")

    def setup(self, stage: str) -> None:
        """Load the training images in the other processes."""
        self.images("train")

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Return the batches from the trainer's next step on.

        Raises:
            UserError: if batch_size is not divisible by devices times accumulated batches.
        """
        trainer = self.trainer
        assert trainer is not None
        world_size, accumulate = trainer.world_size, trainer.accumulate_grad_batches
        device = trainer.strategy.root_device
        if self.batch_size % (world_size * accumulate):
            raise UserError(
                f"batch_size: expected a multiple of {world_size * accumulate} ({world_size} devices × {accumulate} "
                f"accumulated batches), got {self.batch_size}."
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
        """Take the images of a batch from those on the device, if the set is there."""
        if self._resident is None:
            return batch
        index = batch["index"]
        images = self._resident.index_select(0, index)
        item = {"index": index, "images": flip(images, batch["mirrored"]) if self.random_flip else images}
        if self._resident_labels is not None:
            item["labels"] = self._resident_labels.index_select(0, index)
        return item


def resides(images: ImageSet, device: torch.device) -> TypeGuard[MemoryImages]:
    """Return whether the images are kept on the device: on a GPU, if they take at most a tenth of its memory.

    A batch then transfers only the numbers of its images and which are mirrored.
    """
    if device.type != "cuda" or not isinstance(images, MemoryImages):
        return False
    total: int = torch.cuda.get_device_properties(device).total_memory
    return images.images.nbytes <= total / 10


def _places_of(whole: ImageSet) -> Callable[[], Mapping[str, Any]]:
    """Return a function that records the places of images for checkpoints, once, as it may decode 1000 of them."""
    if isinstance(whole, MemoryImages):  # at once: the set need not stay in memory
        places = recorded(whole)
        return lambda: places
    return cache(partial(recorded, whole))


class _FromNextStep(DataLoader[dict[str, Tensor]]):
    """A loader whose iterations start at the trainer's next step, because a Trainer may divide training into epochs."""

    def __init__(self, trainer: L.Trainer, batches: InfiniteBatches, num_workers: int) -> None:
        # No persistent workers, because they would keep the position of the first iteration.
        on_gpu = trainer.strategy.root_device.type == "cuda"
        super().__init__(
            batches,
            batch_size=None,
            num_workers=num_workers,
            pin_memory=on_gpu,
            worker_init_fn=exit_when_parent_terminates,
        )
        self._trainer = trainer
        self._batches = batches

    def __iter__(self) -> Any:
        self._batches.start_step = self._trainer.global_step
        with signals_blocked():
            iterator = super().__iter__()  # starts the workers
        try:
            for batch in iterator:
                for message in batch.pop("warnings", ()):
                    warn_once(message)
                yield batch
        except (UserError, EnvironmentFailure) as error:  # from a worker, the message contains its traceback
            raise type(error)(str(error).rpartition(f"{type(error).__name__}: ")[2].strip()) from None
