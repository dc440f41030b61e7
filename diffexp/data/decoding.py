"""Image files as an `ImageSet`: decoded once into memory, or batch by batch."""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from PIL import UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from diffexp.data.files import ImageFiles
from diffexp.data.images import ImageSet, MemoryImages
from diffexp.data.pixels import check_header, decode
from diffexp.errors import UserError

log = logging.getLogger(__name__)

NAMED = 5  # broken files named in a message
_ENDS = 1_000  # images at either end that tell sets apart, beside names and sizes
CHUNK = 64  # files that a thread takes at a time
# Seconds a file must take for threads to help. They wait for each other while Python runs, which is most of
# the time with thumbnails (0.1 ms each), and little of it with photographs or a slow disk.
WORTH_THREADS = 1e-3


class StoredImages(ImageSet):
    """Images that stay on disk; a fetch reads and decodes its own.

    Args:
        files: where the images are.
        names: which of the files, in order.
        image_shape: (C, H, W) after conversion, with H = W.
        labels: int64 (N,) or None.
        class_names: one name a class, or None.
    """

    def __init__(
        self,
        files: ImageFiles,
        names: list[str],
        image_shape: tuple[int, int, int],
        labels: Tensor | None = None,
        class_names: list[str] | None = None,
    ) -> None:
        super().__init__(image_shape, labels, class_names)
        self.files = files
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def fetch(self, indices: Tensor) -> Tensor:
        """See `ImageSet.fetch`.

        Raises:
            UserError: if a file cannot be decoded; a batch is never short of an image.
        """
        images = torch.empty(len(indices), *self.image_shape, dtype=torch.uint8)
        for row, index in enumerate(indices.tolist()):
            try:
                images[row] = self._image(index)
            except Exception as error:
                raise UserError(
                    f"{self.files.place}: cannot decode {self.names[index]} ({_reason(error)}). Take the file away, "
                    "or raise data.memory_gb to have every file decoded before training starts."
                ) from error
        return images

    def fingerprint(self) -> str:
        """A digest of the files' names and sizes, and of the pixels of the first and last thousand.

        Not of all pixels: what stays on disk takes minutes and more to decode.
        """
        ends = sorted({*range(min(_ENDS, len(self))), *range(max(0, len(self) - _ENDS), len(self))})
        files = [(name, self.files.size(name)) for name in self.names]
        pixels = self.fetch(torch.tensor(ends)).numpy()
        return hashlib.sha256(repr((self.image_shape, files)).encode() + pixels.tobytes()).hexdigest()

    def in_memory(self, broken: str) -> MemoryImages:
        """All images, decoded now.

        Args:
            broken: "refuse" or "skip" files that cannot be decoded.

        Raises:
            UserError: for broken files, with "refuse"; if nothing else is left, with "skip".
        """
        images = torch.empty(len(self), *self.image_shape, dtype=torch.uint8)

        def work(index: int) -> None:
            images[index] = self._image(index)

        kept = self._without(_failures(work, len(self), "decoding"), broken)
        if len(kept) < len(self):
            images = images[kept]
        return MemoryImages(images, None if self.labels is None else self.labels[kept], self.class_names)

    def checked(self, broken: str) -> "StoredImages":
        """These images without those whose header is damaged; see `in_memory`."""

        def work(index: int) -> None:
            with self.files.open(self.names[index]) as file:
                check_header(file)

        kept = self._without(_failures(work, len(self), "reading headers"), broken)
        names = [self.names[index] for index in kept.tolist()]
        labels = None if self.labels is None else self.labels[kept]
        return StoredImages(self.files, names, self.image_shape, labels, self.class_names)

    def _image(self, index: int) -> Tensor:
        channels, size, _ = self.image_shape
        with self.files.open(self.names[index]) as file:
            return torch.from_numpy(decode(file, size, channels))

    def _without(self, failures: Mapping[int, str], broken: str) -> Tensor:
        """The indices (int64) of the files that did not fail, after saying which did."""
        if failures:
            listed = [f"{self.names[index]} ({failures[index]})" for index in sorted(failures)[:NAMED]]
            more = f" and {len(failures) - NAMED} more" if len(failures) > NAMED else ""
            message = (
                f"{self.files.place}: {len(failures)} of {len(self)} files cannot be decoded: {', '.join(listed)}{more}"
            )
            if broken == "refuse" or len(failures) == len(self):
                raise UserError(f"{message}. Take them away, or leave them out with data.broken=skip.")
            log.warning("%s. They are left out.", message)
        return torch.tensor([index for index in range(len(self)) if index not in failures])


def _failures(work: Callable[[int], None], count: int, what: str) -> dict[int, str]:
    """Call work(0), …, work(count - 1), with a progress bar if it takes long; why calls failed, by index."""
    failures: dict[int, str] = {}

    def work_on(chunk: range) -> int:
        for index in chunk:
            try:
                work(index)
            except Exception as error:  # on damaged bytes PIL's decoders raise whatever they run into
                failures[index] = _reason(error)
        return len(chunk)

    with tqdm(desc=what, total=count, unit=" images", delay=2, leave=False, disable=None) as bar:
        bar.update(work_on(range(1)))  # not timed: the first call imports PIL's decoders
        chunks = [range(start, min(start + CHUNK, count)) for start in range(1, count, CHUNK)]
        started = time.perf_counter()
        bar.update(sum(map(work_on, chunks[:1])))
        slow = time.perf_counter() - started > WORTH_THREADS * CHUNK
        with ThreadPoolExecutor(os.cpu_count() if slow else 1) as pool:
            for done in pool.map(work_on, chunks[1:]):
                bar.update(done)
    return failures


def _reason(error: Exception) -> str:
    # PIL's own words here are the address of an object
    return "not an image" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
