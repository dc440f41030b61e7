"""Compare diffexp's in-memory batches with the usual DataLoader, which reads image by image.

    python benchmarks/data.py [--batch-size 128] [--workers 2] [--rounds 7]

The data are 50,000 images of 3×32×32 (CIFAR-10's size), shuffled, mirrored at random, as floats in [-1, 1]. The usual
dataset makes a PIL image and applies RandomHorizontalFlip, ToTensor and Normalize, as torchvision's CIFAR10 and most
diffusion code do. Ours is `InfiniteBatches` behind its DataLoader, and `to_float`.
"""

import statistics
from collections.abc import Iterator

import numpy as np
import torch
from measuring import alternate, arguments, quotients, report, spread
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from diffexp.data.batches import InfiniteBatches
from diffexp.data.images import MemoryImages, to_float


class Usual(Dataset[Tensor]):
    """A dataset that decodes and transforms one image per item, as torchvision's CIFAR10."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        self.transform = transforms.Compose(
            [transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
        )

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        image: Tensor = self.transform(Image.fromarray(self.pixels[index]))
        return image


def endless(loader: DataLoader[Tensor]) -> Iterator[Tensor]:
    """Iterate over the loader indefinitely."""
    while True:
        yield from loader


def main() -> None:
    """Measure all candidates, print the table and write the results."""
    parser = arguments(__doc__, rounds=7)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2, help="workers of the two candidates with workers")
    parser.add_argument("--batches", type=int, default=40, help="batches per measurement")
    given = parser.parse_args()
    given.device = "cpu"
    pixels = torch.randint(256, (50_000, 3, 32, 32), dtype=torch.uint8)
    ours = InfiniteBatches(MemoryImages(pixels), given.batch_size, seed=0, random_flip=True)
    usual = Usual(pixels.permute(0, 2, 3, 1).contiguous().numpy())

    streams: dict[str, Iterator[Tensor]] = {}
    for workers in dict.fromkeys((0, given.workers)):
        loader = DataLoader(usual, given.batch_size, shuffle=True, drop_last=True, num_workers=workers)
        streams[f"per image, {workers} workers"] = endless(loader)
        batches = DataLoader(ours, batch_size=None, num_workers=workers)
        streams[f"ours, {workers} workers"] = (to_float(batch["images"]) for batch in batches)

    def take(stream: Iterator[Tensor], count: int) -> None:
        for _ in range(count):
            next(stream)

    # Workers prefetch while the other candidates are measured: discard these batches.
    ahead = {name: 0 if "0 workers" in name else 2 * given.workers for name in streams}
    for name, stream in streams.items():
        take(stream, ahead[name] + 1)
    seconds: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(given.rounds):
        for name, stream in streams.items():
            take(stream, ahead[name])
            one = alternate({name: lambda stream=stream: take(stream, given.batches)}, 1)
            seconds[name] += one[name]
    base = seconds["per image, 0 workers"]
    rows = [
        [
            name,
            f"{1000 * statistics.median(took) / given.batches:.2f}",
            f"{given.batches / statistics.median(took):.0f}",
            spread(quotients(base, took), ".1f"),
        ]
        for name, took in seconds.items()
    ]
    report(given, "data", ["pipeline", "ms a batch", "batches/s", "× per image, 0 workers"], rows, seconds=seconds)


if __name__ == "__main__":
    main()
