"""Compare batches of CIFAR-10's size from images that reside on a GPU with batches from the loader."""

import argparse
import statistics
from collections.abc import Iterator

import torch
from measuring import alternate, quotients, report, spread
from torch import Tensor
from torch.utils.data import DataLoader

from diffexp.data.batches import InfiniteBatches, flip
from diffexp.data.images import MemoryImages, to_float

IMAGES = 50_000
AHEAD = 2  # batches that the loader prefetches per worker


def stream(images: MemoryImages, batch_size: int, device: torch.device, workers: int | None) -> Iterator[Tensor]:
    """Yield float batches on the device, from images that reside there if `workers` is None."""
    resident = images.images.to(device) if workers is None else None
    batches = InfiniteBatches(images, batch_size, seed=0, random_flip=True, pixels=resident is None)
    pinned = device.type == "cuda"
    for batch in DataLoader(batches, batch_size=None, num_workers=workers or 0, pin_memory=pinned):
        there = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
        if resident is not None:
            there["images"] = flip(resident.index_select(0, there["index"]), there["mirrored"])
        yield to_float(there["images"])


def main(given: argparse.Namespace, batch_size: int, batches: int) -> None:
    """Measure all candidates, print the table and write the results.

    Args:
        given: options: device, out and rounds.
        batch_size: images per batch.
        batches: batches per measurement.
    """
    device = torch.device(given.device)
    images = MemoryImages(torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8))
    streams = {
        "resident": stream(images, batch_size, device, None),
        "loader, 0 workers": stream(images, batch_size, device, 0),
        "loader, 4 workers": stream(images, batch_size, device, 4),
    }

    def take(name: str, count: int) -> None:
        for _ in range(count):
            next(streams[name])

    measured: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(given.rounds):
        for name in streams:
            take(name, 1 + AHEAD * 4)  # prefetched batches do not count
            one = alternate({name: lambda name=name: take(name, batches)}, 1, device)
            measured[name] += one[name]
    rows = [
        [
            name,
            f"{1000 * statistics.median(took) / batches:.3f}",
            f"{batches / statistics.median(took):.0f}",
            spread(quotients(measured["resident"], took)),
        ]
        for name, took in measured.items()
    ]
    report(given, f"data-{batch_size}", ["batches", "ms", "batches/s", "× resident"], rows, seconds=measured)
