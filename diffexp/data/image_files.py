"""Image files as an `ImageSet`, decoded once into memory or batch by batch."""

import math
import os
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch
from PIL import UnidentifiedImageError
from torch import Tensor
from torch.utils.data import get_worker_info

from diffexp.config.schemas.data import MEMORY_GB
from diffexp.data.archives import ImageFiles
from diffexp.data.decode import decode
from diffexp.data.images import ImageSet, MemoryImages, images_in_a_block, new_fingerprint
from diffexp.data.origin import CANNOT_DECODE, NO_IMAGE, Origin, Size
from diffexp.data.records import Record, cached_record
from diffexp.errors import EnvironmentFailure, UserError
from diffexp.system.memory import machine_memory
from diffexp.system.notices import notice, warn_once
from diffexp.system.terminal import progress_bar

if TYPE_CHECKING:
    from tqdm import tqdm

NAMED = 5  # damaged files listed in a message
_SHARE = 0.75  # of the memory, for images; the rest is for the training
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
        skip: what to do about a file that cannot be decoded. False refuses it; True omits it if it is found before the
            set is used, and later takes the next image in its place.
        remedy: what to do about damaged files, for messages.
        known: the fingerprint, if all files were decoded before; else None.
        origin: see `ImageSet`.
    """

    names: list[str]

    def __init__(
        self,
        files: ImageFiles,
        names: list[str],
        image_shape: tuple[int, int, int],
        labels: Tensor | None = None,
        class_names: list[str] | None = None,
        *,
        skip: bool = False,
        remedy: str = "Repair or remove the damaged files.",
        known: str | None = None,
        origin: Origin | None = None,
    ) -> None:
        super().__init__(image_shape, labels, class_names, origin, names)
        self.files = files
        self.skip = skip
        self.remedy = remedy
        self._known = known
        self._sizes: set[Size] = set()
        self._doubts: dict[str, str] = {}  # one file for each reason
        self._warned: set[str] = set()
        self._instead: dict[int, int] = {}  # the image that is in the place of one that was lost
        self._untaken: list[str] = []

    def __len__(self) -> int:
        return len(self.names)

    def fetch(self, indices: Tensor) -> Tensor:
        """Return the images at `indices` (int64, (B,)), in that order: uint8 (B, C, H, W).

        With `skip`, the next image that can be decoded takes the place of one that cannot, with a warning.

        Raises:
            UserError: if a file cannot be decoded; a batch never lacks an image.
            EnvironmentFailure: if the disk or the network fails.
        """
        images = torch.empty(len(indices), *self.image_shape, dtype=torch.uint8)
        for row, index in enumerate(indices.tolist()):
            images[row] = self._image_at(index)
        self._warn()
        return images

    def labels_at(self, indices: Tensor) -> Tensor | None:
        """Return the labels (int64, (B,)) of what `fetch` last returned for `indices`; None for unlabelled images."""
        there = torch.tensor([self._instead.get(index, index) for index in indices.tolist()], dtype=torch.int64)
        return super().labels_at(there)

    def some(self, indices: Tensor) -> "StoredImages":
        """Return the images at `indices` (int64), in that order; one takes the place of another among these only."""
        names = [self.names[index] for index in indices.tolist()]
        return self._with(names, None if self.labels is None else self.labels[indices])

    def in_places(self, names: list[str], indices: Tensor) -> "StoredImages":
        """Return a set with the places of `names`; this set's images at `indices` (int64) are in or after them."""
        return self._with(names, None if self.labels is None else self.labels[indices])

    def take_warnings(self) -> list[str]:
        """Return the warnings of fetches in this worker process that nobody has taken yet."""
        taken, self._untaken = self._untaken, []
        return taken

    def _with(self, names: list[str], labels: Tensor | None, known: str | None = None) -> "StoredImages":
        return StoredImages(
            self.files,
            names,
            self.image_shape,
            labels,
            self.class_names,
            skip=self.skip,
            remedy=self.remedy,
            known=known,
            origin=self.origin,
        )

    def _image_at(self, index: int) -> Tensor:
        """Return the image in a place, which with `skip` may be a later one."""
        place, reason = self._instead.get(index, index), ""
        for tried in (*range(place, len(self)), *range(place)):
            try:
                image = self._image(tried)
            except EnvironmentFailure:
                raise
            except Exception as error:  # PIL's decoders raise any exception on damaged bytes
                reason = reason or f"{self.names[tried]} ({_reason(error)})"
                if not self.skip:
                    raise UserError(f"{self.files.place}: cannot decode {reason}. {self.remedy}") from error
            else:
                if tried != place:
                    self._instead[index] = tried
                    self._say(f"{self.files.place}: cannot decode {reason}; {self.names[tried]} takes its place.")
                return image
        raise UserError(f"{self.files.place}: cannot decode any of {len(self)} files: {reason}. {self.remedy}")

    def _say(self, message: str) -> None:
        """Warn once; the training process warns on behalf of its workers, of which each would."""
        if get_worker_info() is None:
            warn_once(message)
        else:
            self._untaken.append(message)

    def fingerprint(self) -> str:
        """Return the digest of all pixels, without decoding if it is known; see `ImageSet.fingerprint`."""
        return super().fingerprint() if self._known is None else self._known

    def in_memory(self) -> MemoryImages:
        """Decode all images into memory.

        Raises:
            UserError: for damaged files, unless they are to be skipped; if no others remain.
            EnvironmentFailure: if the disk or the network fails.
        """
        images = torch.empty(len(self), *self.image_shape, dtype=torch.uint8)

        def work(index: int) -> None:
            images[index] = self._image(index)

        with progress_bar("decoding", len(self), "image", leave=False, delay=2) as bar:
            failures = _failures(work, range(len(self)), bar)
        self._warn()
        reasons = {self.names[index]: _reason(error) for index, error in failures.items()}
        kept = self._without(reasons)
        if len(kept) < len(self):
            images = images[kept]
        names = [self.names[index] for index in kept.tolist()]
        labels = None if self.labels is None else self.labels[kept]
        return MemoryImages(images, labels, self.class_names, self._origin(self._sizes, reasons), names)

    def checked(self) -> "StoredImages":
        """Return these images without those that cannot be decoded; the errors are those of `in_memory`.

        Every image is decoded once. As long as the files do not change, later calls read the result from the cache.
        """
        record = cached_record(lambda: self.files.states(self.names), self.image_shape, self._examine)
        self._doubts |= record.doubts
        self._warn()
        kept = self._without(record.failures)
        names = [self.names[index] for index in kept.tolist()]
        checked = self._with(names, None if self.labels is None else self.labels[kept], record.pixels)
        checked.origin = self._origin(record.sizes, record.failures)
        return checked

    def _origin(self, sizes: Collection[Size], failures: Mapping[str, str]) -> Origin:
        return Origin.of(sizes, {CANNOT_DECODE: list(failures), NO_IMAGE: self.files.no_images})

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
        sizes = [origin.smallest, origin.largest] if self._sizes and (origin := Origin.of(self._sizes, {})) else []
        return Record(fingerprint, reasons, dict(self._doubts), sizes, not any(map(_may_pass, failures.values())))

    def _image(self, index: int) -> Tensor:
        channels, size, _ = self.image_shape
        name = self.names[index]

        def doubt(reason: str) -> None:
            self._doubts.setdefault(reason, name)

        return torch.from_numpy(decode(self.files.read(name), size, channels, doubt, self._sizes))

    def _warn(self) -> None:
        """Warn about each doubt once, but not from worker processes, where each worker would."""
        if get_worker_info() is None:
            for reason, name in self._doubts.items():
                if reason not in self._warned:
                    self._warned.add(reason)
                    notice(f"{self.files.place}: {name}: {reason}.")

    def _without(self, failures: Mapping[str, str]) -> Tensor:
        """Return the indices (int64) of the files that did not fail; list the failures in a warning or an error."""
        if failures:
            listed = [f"{name} ({failures[name]})" for name in list(failures)[:NAMED]]
            more = f" and {len(failures) - NAMED} more" if len(failures) > NAMED else ""
            message = (
                f"{self.files.place}: cannot decode {len(failures)} of {len(self)} files: {', '.join(listed)}{more}"
            )
            if not self.skip or len(failures) == len(self):
                raise UserError(f"{message}. {self.remedy}")
            notice(f"{message}. diffexp skips them.")
        return torch.tensor([index for index, name in enumerate(self.names) if name not in failures])


def fits_in_memory(count: int, image_shape: tuple[int, int, int], memory_gb: float) -> bool:
    """Return whether images may be kept in memory: up to `memory_gb` GiB, and three quarters of what the machine has.

    Warns if `memory_gb` exceeds the machine's memory. Where the images are kept changes no result.
    """
    there = machine_memory()
    limit = min(memory_gb * 2**30, _SHARE * there)
    if memory_gb * 2**30 > there and memory_gb != MEMORY_GB:  # the default is no request
        notice(
            f"data.memory_gb: expected at most the {there / 2**30:.3g} GiB of memory here, got {memory_gb:g}. diffexp "
            f"keeps at most {limit / 2**30:.3g} GiB of images in memory, and decodes larger sets batch by batch."
        )
    return count * math.prod(image_shape) <= limit


def _failures(work: Callable[[int], None], indices: range, bar: "tqdm[Any]") -> dict[int, Exception]:
    """Call work(index) for all indices; return the exceptions by index, in order."""
    failures: dict[int, Exception] = {}

    def work_on(chunk: range) -> int:
        for index in chunk:
            try:
                work(index)
            except EnvironmentFailure:
                raise
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
    if isinstance(error, UnidentifiedImageError):  # its message contains only the address of an object
        return "not an image"
    if isinstance(error, OSError) and error.strerror:  # the message would repeat the path
        return error.strerror
    return str(error) or type(error).__name__


def _may_pass(error: Exception) -> bool:
    """Return whether an error may pass although the file's content stays: a lack of memory or of permission."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)
