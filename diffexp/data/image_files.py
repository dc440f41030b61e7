"""Image files as an `ImageSet`, decoded once into memory or batch by batch."""

import logging
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch
from PIL import UnidentifiedImageError
from torch import Tensor
from torch.utils.data import get_worker_info

from diffexp.data.archives import ImageFiles
from diffexp.data.decode import decode
from diffexp.data.images import ImageSet, MemoryImages, images_in_a_block, new_fingerprint
from diffexp.data.notices import notice
from diffexp.data.records import Record, cached_record
from diffexp.errors import UserError
from diffexp.system.terminal import progress_bar

if TYPE_CHECKING:
    from tqdm import tqdm

log = logging.getLogger(__name__)

NAMED = 5  # damaged files listed in a message
CHUNK = 64  # files of one task of a thread
# Seconds a file must take for threads to help. Threads wait for each other while Python code runs: most of the time
# with thumbnails (0.1 ms each), rarely with photographs or a slow disk.
WORTH_THREADS = 1e-3


class StoredImages(ImageSet):
    """Images on disk, decoded when they are fetched.

    Args:
        files: the folder or zip with the files.
        names: the files of this set, in order.
        image_shape: (C, H, W) after conversion, with H = W.
        labels: int64 (N,) or None.
        class_names: names of the classes, or None.
        known: the fingerprint, if all files were decoded before; else None.
    """

    def __init__(
        self,
        files: ImageFiles,
        names: list[str],
        image_shape: tuple[int, int, int],
        labels: Tensor | None = None,
        class_names: list[str] | None = None,
        known: str | None = None,
    ) -> None:
        super().__init__(image_shape, labels, class_names)
        self.files = files
        self.names = names
        self._known = known
        self._doubts: dict[str, str] = {}  # one file for each reason
        self._warned: set[str] = set()

    def __len__(self) -> int:
        return len(self.names)

    def fetch(self, indices: Tensor) -> Tensor:
        """Return the images at `indices` (int64, (B,)), in that order: uint8 (B, C, H, W).

        Raises:
            UserError: if a file cannot be decoded; a batch never lacks an image.
        """
        images = torch.empty(len(indices), *self.image_shape, dtype=torch.uint8)
        for row, index in enumerate(indices.tolist()):
            try:
                images[row] = self._image(index)
            except Exception as error:
                raise UserError(
                    f"{self.files.place}: cannot decode {self.names[index]} ({_reason(error)}). Repair or remove it."
                ) from error
        self._warn()
        return images

    def fingerprint(self) -> str:
        """Return the digest of all pixels, without decoding if it is known; see `ImageSet.fingerprint`."""
        return super().fingerprint() if self._known is None else self._known

    def in_memory(self, on_decode_error: str) -> MemoryImages:
        """Decode all images into memory.

        Args:
            on_decode_error: "refuse" raises on files that cannot be decoded, "skip" omits them with a warning.

        Raises:
            UserError: for damaged files, with "refuse"; if no other files remain, with "skip".
        """
        images = torch.empty(len(self), *self.image_shape, dtype=torch.uint8)

        def work(index: int) -> None:
            images[index] = self._image(index)

        with progress_bar("decoding", len(self), "image", leave=False, delay=2) as bar:
            failures = _failures(work, range(len(self)), bar)
        self._warn()
        kept = self._without({self.names[index]: _reason(error) for index, error in failures.items()}, on_decode_error)
        if len(kept) < len(self):
            images = images[kept]
        return MemoryImages(images, None if self.labels is None else self.labels[kept], self.class_names)

    def checked(self, on_decode_error: str) -> "StoredImages":
        """Return these images without those that cannot be decoded; the argument and errors are those of `in_memory`.

        Every image is decoded once. As long as the files do not change, later calls read the result from the cache.
        """
        record = cached_record(lambda: self.files.states(self.names), self.image_shape, self._examine)
        self._doubts |= record.doubts
        self._warn()
        kept = self._without(record.failures, on_decode_error)
        names = [self.names[index] for index in kept.tolist()]
        labels = None if self.labels is None else self.labels[kept]
        return StoredImages(self.files, names, self.image_shape, labels, self.class_names, record.pixels)

    def _examine(self) -> Record:
        """Decode all images, one block at a time."""
        failures: dict[int, Exception] = {}
        digest = new_fingerprint(len(self), self.image_shape)
        size = images_in_a_block(self.image_shape)
        block = torch.empty(min(size, len(self)), *self.image_shape, dtype=torch.uint8)
        with progress_bar("decoding", len(self), "image", leave=False, delay=2) as bar:
            for start in range(0, len(self), size):

                def work(index: int, start: int = start) -> None:
                    block[index - start] = self._image(index)

                indices = range(start, min(start + size, len(self)))
                failures |= _failures(work, indices, bar)
                digest.update(block[: len(indices)].numpy().data)
        fingerprint = digest.hexdigest()
        if failures:  # the digest starts with the number of images, so it is recomputed for the others
            left = [name for index, name in enumerate(self.names) if index not in failures]
            fingerprint = StoredImages(self.files, left, self.image_shape).fingerprint()
        reasons = {self.names[index]: _reason(error) for index, error in failures.items()}
        return Record(fingerprint, reasons, dict(self._doubts), not any(map(_may_pass, failures.values())))

    def _image(self, index: int) -> Tensor:
        channels, size, _ = self.image_shape
        name = self.names[index]

        def doubt(reason: str) -> None:
            self._doubts.setdefault(reason, name)

        with self.files.open(name) as file:
            return torch.from_numpy(decode(file, size, channels, doubt))

    def _warn(self) -> None:
        """Warn about each doubt once, but not from worker processes, where each worker would."""
        if get_worker_info() is None:
            for reason, name in self._doubts.items():
                if reason not in self._warned:
                    self._warned.add(reason)
                    notice(f"{self.files.place}: {name}: {reason}.")

    def _without(self, failures: Mapping[str, str], on_decode_error: str) -> Tensor:
        """Return the indices (int64) of the files that did not fail; list the failures in a warning or an error."""
        if failures:
            listed = [f"{name} ({failures[name]})" for name in list(failures)[:NAMED]]
            more = f" and {len(failures) - NAMED} more" if len(failures) > NAMED else ""
            message = (
                f"{self.files.place}: cannot decode {len(failures)} of {len(self)} files: {', '.join(listed)}{more}"
            )
            if on_decode_error == "refuse" or len(failures) == len(self):
                raise UserError(f"{message}. Remove them, or set data.on_decode_error=skip.")
            log.warning("%s. diffexp skips them.", message)
        return torch.tensor([index for index, name in enumerate(self.names) if name not in failures])


def _failures(work: Callable[[int], None], indices: range, bar: "tqdm[Any]") -> dict[int, Exception]:
    """Call work(index) for all indices; return the exceptions by index, in order."""
    failures: dict[int, Exception] = {}

    def work_on(chunk: range) -> int:
        for index in chunk:
            try:
                work(index)
            except Exception as error:  # PIL's decoders raise any exception on damaged bytes
                failures[index] = error
        return len(chunk)

    bar.update(work_on(indices[:1]))  # not timed: the first call imports PIL's decoders
    chunks = [indices[start : start + CHUNK] for start in range(1, len(indices), CHUNK)]
    started = time.perf_counter()
    bar.update(sum(map(work_on, chunks[:1])))
    slow = time.perf_counter() - started > WORTH_THREADS * CHUNK
    with ThreadPoolExecutor(os.cpu_count() if slow else 1) as pool:
        for done in pool.map(work_on, chunks[1:]):
            bar.update(done)
    return {index: failures[index] for index in sorted(failures)}


def _reason(error: Exception) -> str:
    # PIL's message contains only the address of an object
    return "not an image" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__


def _may_pass(error: Exception) -> bool:
    """Return whether an error is due to the machine and not to the file."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)
