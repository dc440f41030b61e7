"""Mixtures of histograms, the simplest models with a likelihood: the baselines of docs/results/families.md.

    python docs/results/histograms.py DATA FOLDER

DATA is digits or fashion_mnist, split as for the families. FOLDER/DATA_baselines.json holds what was found.

    p(x) = Σ_k π_k Π_i p_ki(x_i)

where p_ki is a histogram of pixel i, over the 256 levels. One component is the histogram of each pixel alone. EM finds
the components; a held-out set chooses how many there are, and how far each histogram is smoothed towards the levels of
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

_ELEMENTS = 2**25  # of the largest tensor in work


class Mixture:
    """A mixture of histograms.

    Args:
        shares: π_k, which sum to 1, (K,).
        counts: how many images have each level at each pixel in each component, (P, L, K); fractions are allowed.
        smoothing: images that each histogram counts in addition, with the levels of all pixels together (to which one
            image of all levels is added, so that nothing is impossible).
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
        """log π_k + log p_k(x) of each image and component, (N, K), natural.

        Args:
            images: levels, integers (N, P).
        """
        return self.shares.log() + embedding_bag(images.long() + self._first_rows, self._log_rows, mode="sum")

    def bits_per_dim(self, images: Tensor) -> Tensor:
        """Of each image, (N,)."""
        parts = images.split(max(1, _ELEMENTS // images.shape[1]))
        nats = torch.cat([self.log_joint(part).logsumexp(1) for part in parts])
        return -nats / (images.shape[1] * math.log(2))

    def smoothed(self, smoothing: float) -> "Mixture":
        """The same counts with another smoothing."""
        return Mixture(self.shares, self.counts, smoothing)

    def improved(self, images: Tensor) -> "Mixture":
        """After one step of EM: each image counts in each component by that one's probability given the image."""
        rows, size = torch.zeros_like(self._log_rows), max(1, _ELEMENTS // images.shape[1])
        shares = torch.zeros_like(self.shares)
        for part in images.split(size):
            given = self.log_joint(part).softmax(1)
            shares += given.sum(0)
            rows += _counted(part.long() + self._first_rows, given, rows)
        return Mixture(shares / len(images), rows.view_as(self.counts), self.smoothing)

    def sample(self, count: int, seed: int) -> Tensor:
        """Images, uint8 (count, P)."""
        source = torch.Generator().manual_seed(seed)
        chosen = torch.multinomial(self.shares.cpu(), count, replacement=True, generator=source)
        images = torch.empty(count, len(self.counts), dtype=torch.uint8)
        for component in chosen.unique().tolist():
            of_it = (chosen == component).nonzero().flatten()
            histograms = self.histograms[:, :, component].cpu()
            images[of_it] = torch.multinomial(histograms, len(of_it), True, generator=source).T.to(torch.uint8)
        return images


def _counted(rows: Tensor, given: Tensor, like: Tensor) -> Tensor:
    """The sum of `given` (N, K) over the images whose pixels name a row, for all rows: the gradient of their bag."""
    table = torch.zeros_like(like, requires_grad=True)
    (found,) = torch.autograd.grad(embedding_bag(rows, table, mode="sum"), table, given)
    return found


def fitted(images: Tensor, components: int, steps: int, seed: int, levels: int = 256) -> Mixture:
    """A mixture by EM, started from as many images, to the nearest of which each image belongs at first.

    Args:
        images: levels, integers (N, P).
        components: K.
        steps: of EM; one component needs none.
        seed: of the images it starts from.
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
    """The mixture that finds held-out images likeliest, of these numbers of components and all `SMOOTHINGS`."""
    tried = [
        mixture.smoothed(smoothing)
        for mixture in (fitted(train, count, steps, seed=0) for count in components)
        for smoothing in SMOOTHINGS
    ]
    return min(tried, key=lambda mixture: mixture.bits_per_dim(held_out).mean().item())


def baselines(data: str, folder: Path) -> dict[str, dict[str, Any]]:
    """A histogram for each pixel, and a mixture of such histograms, on the same images as the families."""
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
    """Fit both baselines of a dataset."""
    data, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{data}_baselines.json").write_text(json.dumps(baselines(data, folder), indent=1) + "\n")


if __name__ == "__main__":
    main()
