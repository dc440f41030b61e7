"""Schemas of the image sources."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from omegaconf import MISSING

from diffexp.config.context import Context
from diffexp.config.fields import absolute, number
from diffexp.config.registry import Component, Registry


@dataclass
class DataConfig(Component):
    """An image source. Its builder gets the split, image_size, channels and memory_gb.

    Keys:
        image_size: height and width in pixels, as the model sees them.
        channels: 1 (grey) or 3 (RGB).
        held_out: images of the train split, evenly spread over it, that training never uses. They are a split of their
            own, held_out, on which steps and settings can be chosen without a look at the test images.
        random_flip: mirror a random half of the training images left to right, another half in each pass.
        num_workers: processes that fetch batches beside the training process; 0 fetches in it.
        memory_gb: a split larger than this (as uint8, in GiB) stays on disk and is decoded batch by batch.
    """

    image_size: int = number(32, at_least=1)
    channels: int = 3
    held_out: int = number(0, at_least=0)
    random_flip: bool = False
    num_workers: int = number(0, at_least=0)
    memory_gb: float = number(4.0, at_least=0)

    # Fields that hold a path.
    paths: ClassVar[tuple[str, ...]] = ()
    # The size and channels of the files, where the source knows them; larger images are padded.
    native_size: ClassVar[int | None] = None
    native_channels: ClassVar[int | None] = None

    def with_absolute_paths(self) -> Self:
        """The same with absolute paths, so that it means the same from any working directory."""
        return absolute(self, self.paths)

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        if self.native_size is not None and self.image_size < self.native_size:
            yield "image_size", f"the {self.name} images have {self.native_size} pixels a side; padding only enlarges"
        if self.native_channels is not None and self.channels != self.native_channels:
            yield "channels", f"the {self.name} images have {self.native_channels}"
        if self.channels not in (1, 3):
            yield "channels", f"must be 1 (grey) or 3 (RGB), not {self.channels}"


DATA = Registry("dataset", DataConfig, "diffexp.data.{name}:load")


@DATA.register("digits")
@dataclass
class DigitsConfig(DataConfig):
    """1,797 handwritten digits of 8×8 pixels that ship inside scikit-learn; no download."""

    name: str = "digits"
    image_size: int = number(8, at_least=1)
    channels: int = 1
    native_size: ClassVar[int | None] = 8
    native_channels: ClassVar[int | None] = 1


@dataclass
class _MnistLike(DataConfig):
    """28×28 grey images in idx files below `root`, padded evenly with black to image_size."""

    image_size: int = number(32, at_least=1)
    channels: int = 1
    root: str = "data"
    paths: ClassVar[tuple[str, ...]] = ("root",)
    native_size: ClassVar[int | None] = 28
    native_channels: ClassVar[int | None] = 1


@DATA.register("mnist")
@dataclass
class MnistConfig(_MnistLike):
    """MNIST, found below `root` or downloaded to it."""

    name: str = "mnist"


@DATA.register("fashion_mnist")
@dataclass
class FashionMnistConfig(_MnistLike):
    """Fashion-MNIST: found below `root`, or in Debian's package dataset-fashion-mnist, or downloaded."""

    name: str = "fashion_mnist"


@DATA.register("cifar10")
@dataclass
class Cifar10Config(DataConfig):
    """CIFAR-10, found below `root` or downloaded to it."""

    name: str = "cifar10"
    root: str = "data"
    paths: ClassVar[tuple[str, ...]] = ("root",)
    native_size: ClassVar[int | None] = 32
    native_channels: ClassVar[int | None] = 3


@DATA.register("image_folder")
@dataclass
class ImageFolderConfig(DataConfig):
    """A folder or zip of images, with one sub-folder a class or none, or with a train and a test folder.

    Keys:
        path: the folder or zip.
        test_path: a second folder or zip with the test split; null takes `test_fraction` of `path`, or its test folder.
        test_fraction: share of the training files that make the test split instead, chosen by a hash of their names.
        on_decode_error: what to do about a file that cannot be decoded: name it and stop, or name it and skip it.
    """

    name: str = "image_folder"
    path: str = MISSING
    test_path: str | None = None
    test_fraction: float = number(0.0, at_least=0, below=1)
    on_decode_error: Literal["refuse", "skip"] = "refuse"
    paths: ClassVar[tuple[str, ...]] = ("path", "test_path")
