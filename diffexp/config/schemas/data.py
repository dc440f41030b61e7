"""Schemas of the datasets."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self

from omegaconf import MISSING

from diffexp.config.context import Context
from diffexp.config.fields import absolute, number
from diffexp.config.registry import Component, Registry
from diffexp.config.schemas.image_files import download_folder_problem, image_folder_problem

# Default of memory_gb.
MEMORY_GB = 4.0


@dataclass
class DataConfig(Component):
    """A dataset of images. Its builder gets the split, image_size, channels and memory_gb.

    Keys:
        image_size: height and width of the model's images in pixels.
        channels: 1 (grey) or 3 (RGB).
        held_out: number of images of the train split, evenly spaced, that training never uses. They form the split
            held_out, on which steps and settings can be chosen without looking at the test images.
        random_flip: mirror a random half of the training images left to right, another half in each epoch.
        num_workers: processes that load batches; 0 loads them in the training process.
        memory_gb: largest split in GiB (as uint8) to keep in memory, but at most three quarters of the memory of the
            machine, the container or the Slurm job. A larger split stays on disk and is decoded batch by batch.
    """

    image_size: int = number(32, at_least=1, at_most=16_384)
    channels: int = 3
    held_out: int = number(0, at_least=0)
    random_flip: bool = False
    num_workers: int = number(0, at_least=0)
    memory_gb: float = number(MEMORY_GB, at_least=0)

    # Fields that hold a path.
    paths: ClassVar[tuple[str, ...]] = ()
    # Size and channels of the files where they are fixed; images are padded to a larger image_size.
    native_size: ClassVar[int | None] = None
    native_channels: ClassVar[int | None] = None
    # Number of its training and test images, and of its classes, where they are fixed.
    native_counts: ClassVar[tuple[int, int] | None] = None
    native_classes: ClassVar[int | None] = None

    def with_absolute_paths(self) -> Self:
        """Return a copy with absolute paths, which is valid in any working directory."""
        return absolute(self, self.paths)

    def unavailable(self, context: Context) -> Iterator[tuple[str, str]]:
        yield from super().unavailable(context)
        for key in self.paths:
            path = getattr(self, key)
            problem = None if path is None else self.path_problem(Path(path).expanduser())
            if problem is not None:
                yield key, problem

    def path_problem(self, path: Path) -> str | None:
        """Return the problem of one of `paths`, or None."""
        return None

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        if self.native_size is not None and self.image_size < self.native_size:
            yield (
                "image_size",
                f"expected an integer >= {self.native_size}, the size of the {self.name} images (padding only "
                f"enlarges), got {self.image_size}.",
            )
        if self.native_channels is not None and self.channels != self.native_channels:
            yield "channels", f"expected {self.native_channels}, as the {self.name} images have, got {self.channels}."
        if self.channels not in (1, 3):
            yield "channels", f"expected 1 (grey) or 3 (RGB), got {self.channels}."
        if self.native_counts is not None and self.held_out >= self.native_counts[0]:
            yield (
                "held_out",
                f"expected fewer than the {self.native_counts[0]} training images of {self.name}, got {self.held_out}.",
            )

    def split_sizes(self) -> dict[str, int]:
        """Return the number of images of each split, where it is known."""
        sizes = {"held_out": self.held_out}
        if self.native_counts is not None:
            sizes |= {"train": self.native_counts[0] - self.held_out, "test": self.native_counts[1]}
        return sizes


DATA = Registry("dataset", DataConfig, "diffexp.data.{name}:load")


@DATA.register("digits")
@dataclass
class DigitsConfig(DataConfig):
    """The 1,797 handwritten digits of 8×8 pixels included in scikit-learn; no download."""

    name: str = "digits"
    image_size: int = number(8, at_least=1, at_most=16_384)
    channels: int = 1
    native_size: ClassVar[int | None] = 8
    native_channels: ClassVar[int | None] = 1
    native_counts: ClassVar[tuple[int, int] | None] = (1_617, 180)
    native_classes: ClassVar[int | None] = 10


@dataclass
class _MnistLike(DataConfig):
    """28×28 grey images in idx files.

    Keys:
        root: folder to read the files from or to download them to.
    """

    image_size: int = number(32, at_least=1, at_most=16_384)
    channels: int = 1
    root: str = "data"
    paths: ClassVar[tuple[str, ...]] = ("root",)
    native_size: ClassVar[int | None] = 28
    native_channels: ClassVar[int | None] = 1
    native_counts: ClassVar[tuple[int, int] | None] = (60_000, 10_000)
    native_classes: ClassVar[int | None] = 10

    def path_problem(self, path: Path) -> str | None:
        return download_folder_problem(path)


@DATA.register("mnist")
@dataclass
class MnistConfig(_MnistLike):
    """MNIST, 28×28 grey images, padded evenly with black to image_size (LeCun et al. 1998)."""

    name: str = "mnist"


@DATA.register("fashion_mnist")
@dataclass
class FashionMnistConfig(_MnistLike):
    """Fashion-MNIST (Xiao et al. 2017), 28×28 grey images, padded evenly with black to image_size.

    The files are read from `root` or from Debian's package dataset-fashion-mnist, else downloaded to `root`.
    """

    name: str = "fashion_mnist"


@DATA.register("cifar10")
@dataclass
class Cifar10Config(DataConfig):
    """CIFAR-10, 32×32 RGB images (Krizhevsky 2009).

    Keys:
        root: folder to read the files from or to download them to.
    """

    name: str = "cifar10"
    root: str = "data"
    paths: ClassVar[tuple[str, ...]] = ("root",)
    native_size: ClassVar[int | None] = 32
    native_channels: ClassVar[int | None] = 3
    native_counts: ClassVar[tuple[int, int] | None] = (50_000, 10_000)
    native_classes: ClassVar[int | None] = 10
    extra: ClassVar[str | None] = "datasets"
    packages: ClassVar[tuple[str, ...]] = ("torchvision",)

    def path_problem(self, path: Path) -> str | None:
        return download_folder_problem(path)


@DATA.register("image_folder")
@dataclass
class ImageFolderConfig(DataConfig):
    """A folder or zip of images, flat or with one sub-folder per class, or with a train and a test folder.

    Keys:
        path: the folder or zip.
        test_path: a second folder or zip with the test split; null uses `test_fraction` of `path` or, where that is 0,
            its test folder.
        test_fraction: fraction of the training files to use as the test split instead, chosen by a hash of their names.
        on_decode_error: what to do about a file that cannot be decoded. refuse names it and stops; skip names it and
            trains without it. If it is lost after training began, the next image takes its place.
    """

    name: str = "image_folder"
    path: str = MISSING
    test_path: str | None = None
    test_fraction: float = number(0.0, at_least=0, below=1)
    on_decode_error: Literal["refuse", "skip"] = "refuse"
    paths: ClassVar[tuple[str, ...]] = ("path", "test_path")

    def path_problem(self, path: Path) -> str | None:
        return image_folder_problem(path)
