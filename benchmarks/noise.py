"""Compare addressed normals with other ways to draw the noise of one sampling step.

    python benchmarks/noise.py [--images 64] [--rounds 30]

Each candidate draws 64×3×32×32 normals. "Addressed" means that the normals of image i are a function of (seed, i).

- numpy: a Philox generator for each image, on the host.
- ours: `PerSampleNoise`, one draw at a time, and several draws computed at once, as sampling does.
- torch.randn: one stream for all images, not addressed.
- torch.func: its batched Philox, if this version of torch has one.
"""

import statistics
from collections.abc import Callable

import numpy as np
import torch
from measuring import alternate, arguments, quotients, report, spread
from torch import Tensor

from diffexp.rng import PerSampleNoise, RandomNumbers, derive_seed

SHAPE = (3, 32, 32)
DRAWS = 10  # per measurement


def candidates(images: int, device: torch.device) -> dict[str, Callable[[], Tensor]]:
    """Functions, by name, that draw the noise of one step for all images."""
    streams = [np.random.Generator(np.random.Philox(key=[0, index])) for index in range(images)]

    def by_numpy() -> Tensor:
        noise = torch.empty(images, *SHAPE)
        for row, stream in zip(noise.numpy(), streams, strict=True):
            stream.standard_normal(dtype=np.float32, out=row)
        return noise.to(device)

    numbers = RandomNumbers(derive_seed("image", 0), torch.arange(images, device=device))
    several = PerSampleNoise(0, range(images), SHAPE, device)
    found = {
        "numpy's Philox, image by image": by_numpy,
        "ours, draw by draw": lambda: numbers.draws(1, 1, SHAPE)[0].normals,
        "ours, several draws at once": several.draw,
        "torch.randn, one stream": lambda: torch.randn(images, *SHAPE, device=device),
    }
    try:
        from torch.func import _random
    except ImportError:
        return found
    keys = _random.split(_random.key(0, device=device), images)[:, None, None, None]
    found["torch.func's Philox"] = lambda: _random.normal(keys, images, *SHAPE)
    return found


def main() -> None:
    """Measure all candidates, print the table and write the results."""
    parser = arguments(__doc__, rounds=30)
    parser.add_argument("--images", type=int, default=64, help="images per draw")
    given = parser.parse_args()
    device = torch.device(given.device)

    def repeated(draw: Callable[[], Tensor]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(DRAWS):
                draw()

        return run

    runs = {name: repeated(draw) for name, draw in candidates(given.images, device).items()}
    measured = alternate(runs, given.rounds, device)
    base = measured["numpy's Philox, image by image"]
    rows = [
        [name, f"{1000 * statistics.median(took) / DRAWS:.2f}", spread(quotients(base, took))]
        for name, took in measured.items()
    ]
    report(given, "noise", ["normals", "ms a step", "× numpy"], rows, seconds=measured)


if __name__ == "__main__":
    main()
