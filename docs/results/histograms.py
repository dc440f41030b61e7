"""Fit mixtures of histograms, the baselines of docs/results/families.md.

    python docs/results/histograms.py DATA FOLDER

DATA is digits or fashion_mnist, split as for the families. The results are written to FOLDER/DATA_baselines.json. A
mixture of histograms is the simplest model with a likelihood:

    p(x) = Σ_k π_k Π_i p_ki(x_i)

where p_ki is a histogram of pixel i over the 256 levels. With one component it is a histogram of each pixel alone. EM
fits the components. Held-out images choose their number, and how far each histogram is smoothed towards the levels of
all pixels together.
"""

import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, one_hot

from diffexp.commands.score import score
from diffexp.config.load import load_experiment
from diffexp.data.datamodule import ImageDataModule
from diffexp.data.grids import grid

COMPONENTS = {"digits": (2, 4, 8, 16, 32, 64), "fashion_mnist": (8, 32)}
SMOOTHINGS = (0.1, 0.3, 1, 3, 10, 30)
EM_STEPS = 20
TEST_IMAGES = 180  # as in families.py
EXTRACTORS = {"digits": "digits_v1", "fashion_mnist": "fashion_mnist_v1"}

_ELEMENTS = 2**25  # elements of the largest intermediate tensor


class Mixture:
    """A mixture of histograms: p(x) = Σ_k π_k Π_i p_ki(x_i).

    Args:
        shares: π_k (K,), which sum to 1.
        counts: (P, L, K), the number of images with each level at each pixel in each component; may be fractional.
        smoothing: number of images added to each histogram, distributed as the levels of all pixels together. One
            count of every level is added to that distribution, so that no level has probability 0.
    """

    def __init__(self, shares: Tensor, counts: Tensor, smoothing: float) -> None:
        pixels, levels, components = counts.shape
        self.shares, self.counts, self.smoothing = shares, counts, smoothing
        together = counts.sum((0, 2)) + 1
        prior = (together / together.sum()).view(1, levels, 1)
        self.histograms = (counts + smoothing * prior) / (counts.sum(1, keepdim=True) + smoothing)
        self._log_rows = self.histograms.log().view(pixels * levels, components)
        self._first_rows = torch.arange(pixels, device=counts.device) * levels

    def log_joint(self, images: Tensor) -> Tensor:
        """log π_k + log p_k(x) in nats of each image and component, (N, K).

        Args:
            images: levels, integers (N, P).
        """
        return self.shares.log() + embedding_bag(images.long() + self._first_rows, self._log_rows, mode="sum")

    def bits_per_dim(self, images: Tensor) -> Tensor:
        """Bits per dimension of each image, (N,)."""
        parts = images.split(max(1, _ELEMENTS // images.shape[1]))
        nats = torch.cat([self.log_joint(part).logsumexp(1) for part in parts])
        return -nats / (images.shape[1] * math.log(2))

    def smoothed(self, smoothing: float) -> "Mixture":
        """The mixture of the same counts with another smoothing."""
        return Mixture(self.shares, self.counts, smoothing)

    def improved(self, images: Tensor) -> "Mixture":
        """The mixture after one EM step: image n adds p(k | x_n) to the counts of component k."""
        rows, size = torch.zeros_like(self._log_rows), max(1, _ELEMENTS // images.shape[1])
        shares = torch.zeros_like(self.shares)
        for part in images.split(size):
            given = self.log_joint(part).softmax(1)
            shares += given.sum(0)
            rows += _counted(part.long() + self._first_rows, given, rows)
        return Mixture(shares / len(images), rows.view_as(self.counts), self.smoothing)

    def sample(self, count: int, seed: int) -> Tensor:
        """Draw images, uint8 (count, P)."""
        source = torch.Generator().manual_seed(seed)
        chosen = torch.multinomial(self.shares.cpu(), count, replacement=True, generator=source)
        images = torch.empty(count, len(self.counts), dtype=torch.uint8)
        for component in chosen.unique().tolist():
            of_it = (chosen == component).nonzero().flatten()
            histograms = self.histograms[:, :, component].cpu()
            images[of_it] = torch.multinomial(histograms, len(of_it), True, generator=source).T.to(torch.uint8)
        return images


def _counted(rows: Tensor, given: Tensor, like: Tensor) -> Tensor:
    """Sum `given` (N, K) into the rows that each image's pixels index: the gradient of their embedding bag."""
    table = torch.zeros_like(like, requires_grad=True)
    (found,) = torch.autograd.grad(embedding_bag(rows, table, mode="sum"), table, given)
    return found


def fitted(images: Tensor, components: int, steps: int, seed: int, levels: int = 256) -> Mixture:
    """Fit a mixture by EM, which starts by assigning each image to the nearest of K random images.

    Args:
        images: levels, integers (N, P).
        components: K.
        steps: EM steps; one component needs none.
        seed: seed for the K random images.
        levels: L.
    """
    source = torch.Generator().manual_seed(seed)
    centres = images[torch.randperm(len(images), generator=source)[:components]].double()
    nearest = torch.cat([torch.cdist(part.double(), centres).argmin(1) for part in images.split(4096)])
    belongs = one_hot(nearest, components).double()
    rows = torch.zeros(images.shape[1] * levels, components, dtype=torch.float64)
    first_rows = torch.arange(images.shape[1]) * levels
    for part, given in zip(images.split(4096), belongs.split(4096), strict=True):
        rows += _counted(part.long() + first_rows, given, rows)
    mixture = Mixture(belongs.mean(0), rows.view(images.shape[1], levels, components), 1.0)
    for _ in range(steps if components > 1 else 0):
        mixture = mixture.improved(images)
    return mixture


def chosen(train: Tensor, held_out: Tensor, components: Sequence[int], steps: int) -> Mixture:
    """The mixture with the fewest held-out bits over these numbers of components and all `SMOOTHINGS`."""
    tried = [
        mixture.smoothed(smoothing)
        for mixture in (fitted(train, count, steps, seed=0) for count in components)
        for smoothing in SMOOTHINGS
    ]
    return min(tried, key=lambda mixture: mixture.bits_per_dim(held_out).mean().item())


def baselines(data: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Fit a histogram of each pixel, and a mixture of such histograms, to the images of the families."""
    experiment = load_experiment(f"families/{data}_vae", ["score=null", "sample_grid=null"])
    module = ImageDataModule.from_config(experiment.data, 1, 0)

    def levels(split: str, count: int | None = None) -> Tensor:
        images = module.images(split)
        most = count or len(images)
        return images.fetch(torch.arange(most) * len(images) // most).flatten(1)

    found: dict[str, dict[str, Any]] = {}
    for name, components in (("histogram", (1,)), ("mixture of histograms", COMPONENTS[data])):
        start = time.perf_counter()
        mixture = chosen(levels("train"), levels("held_out"), components, EM_STEPS)
        bits = mixture.bits_per_dim(levels("test", TEST_IMAGES))
        file = folder / f"{data}_{name.replace(' ', '_')}.npz"
        drawn = mixture.sample(1000, seed=0).view(-1, *module.images("test").image_shape)
        np.savez(file, images=drawn.permute(0, 2, 3, 1).numpy())
        found[name] = {
            "components": len(mixture.shares),
            "smoothing": mixture.smoothing,
            "bits": {"mean": bits.mean().item(), "error": (bits.std() / len(bits) ** 0.5).item()},
            "seconds": time.perf_counter() - start,
            "samples": score(file, experiment, [f"extractor.name={EXTRACTORS[data]}"]).scores.as_dict(),
        }
        grid(drawn[:20], columns=20).save(folder / f"{data}_{name.replace(' ', '_')}.png")
    return found


def main() -> None:
    """Fit both baselines of a dataset and write their results."""
    data, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{data}_baselines.json").write_text(json.dumps(baselines(data, folder), indent=1) + "\n")


if __name__ == "__main__":
    main()
