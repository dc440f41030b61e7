"""Compare ways to compute the trace of (Σ₁Σ₂)^½ in the Fréchet distance: ours by symmetric eigenvalues, and others.

    python benchmarks/frechet_trace.py [--dim 2048] [--count 5000] [--rounds 3]

Print a Markdown table and write benchmarks/results/frechet_trace-DIM-COUNT.json. Each round runs every method once.
The table shows the median CPU milliseconds of this process.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.linalg
import torch

from diffexp.evaluation.feature_statistics import Gaussian
from diffexp.evaluation.metrics.frechet import FrechetReference


def features(count: int, dim: int, seed: int) -> torch.Tensor:
    """Random features (count, dim) like Inception's: non-negative, with variances that follow a power law."""
    source = torch.Generator().manual_seed(seed)
    scales = torch.arange(1, dim + 1, dtype=torch.float64) ** -0.5
    mixed = torch.randn(count, dim, generator=source, dtype=torch.float64) * scales
    rotation = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[
        0
    ]
    return (mixed @ rotation + 0.1 * (seed + 1)).relu()


def gaussian(values: torch.Tensor) -> Gaussian:
    """The mean and covariance of features (N, D)."""
    return Gaussian(values.mean(0), values.T.cov(), len(values))


def methods(one: Gaussian, other: Gaussian) -> dict[str, Callable[[], float]]:
    """Functions, by name, that each compute the complete distance of `one` from the reference `other`."""
    cached = FrechetReference(other)
    cached.distance(one)
    rest = float((one.mean - other.mean).square().sum() + one.cov.trace() + other.cov.trace())
    product = (one.cov @ other.cov).numpy()
    return {
        "ours, reference's root kept": lambda: cached.distance(one),
        "ours, first time": lambda: FrechetReference(other).distance(one),
        "scipy.linalg.sqrtm": lambda: rest - 2 * float(np.trace(scipy.linalg.sqrtm(product).real)),
        "eigvals of Σ₁Σ₂": lambda: rest - 2 * float(torch.linalg.eigvals(one.cov @ other.cov).sqrt().real.sum()),
    }


def main() -> None:
    """Measure all candidates, print the table and write the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dim", type=int, default=2048, help="number of features")
    parser.add_argument("--count", type=int, default=5000, help="number of images")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each method")
    given = parser.parse_args()
    candidates = methods(*(gaussian(features(given.count, given.dim, seed)) for seed in (0, 1)))
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    values: dict[str, float] = {}
    for _ in range(given.rounds):
        for name, compute in candidates.items():
            start = time.process_time()
            values[name] = compute()
            seconds[name].append(time.process_time() - start)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    first = next(iter(medians.values()))
    print(f"d = {given.dim}, n = {given.count}, median of {given.rounds}\n")
    print("| method | distance | CPU ms | times ours |")
    print("|---|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {values[name]:.8f} | {1000 * median:.1f} | {median / first:.1f} |")
    machine = {"python": platform.python_version(), "torch": torch.__version__, "scipy": scipy.__version__}
    content = {**vars(given), **machine, "threads": torch.get_num_threads(), "values": values, "seconds": seconds}
    out = Path(__file__).parent / "results" / f"frechet_trace-{given.dim}-{given.count}.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
