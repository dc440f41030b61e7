"""Measure the seconds of each stage of scoring 10,000 images: sampling, features, statistics.

    python benchmarks/scoring.py [--images 10000] [--probe 512]

- digits: the quickstart's network and the extractor that comes with diffexp; features of all images are measured.
- inception: Inception-v3 with random weights (the genuine ones cost the same). Its features are measured on --probe
  images of 32×32 and extrapolated to all; its statistics are of all images.

The statistics are sums and single features of all images, then distance, kernel distance, precision and recall.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import arguments, report, synchronize
from networks import SIZES, wake

from diffexp.config.schemas.extractors import DigitsExtractorConfig, ExtractorConfig, InceptionConfig
from diffexp.config.schemas.samplers import DDIMConfig
from diffexp.evaluation.extractors import build_extractor
from diffexp.evaluation.extractors.base import Features
from diffexp.evaluation.feature_statistics import FeatureStatistics
from diffexp.evaluation.metrics.metric_set import MetricSet
from diffexp.evaluation.reference import Reference
from diffexp.evaluation.sample_scores import seconds_a_call
from diffexp.system.devices import autocast, precision_for

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.helpers.inception import write_random_inception

STEPS = 50


def stages(
    name: str, config: ExtractorConfig, images: int, probe: int, batch: int, device: torch.device
) -> dict[str, float]:
    """Measure the seconds of each stage, for all images."""
    size = SIZES[name]
    module = size.module().to(device).eval()
    wake(module.network)
    with autocast(precision_for("auto", device), device):
        call = seconds_a_call(module, DDIMConfig(steps=STEPS), batch)
    extractor = build_extractor(config, size.image_shape).to(device)
    pixels = torch.randint(256, (probe, *size.image_shape), dtype=torch.uint8, device=device)
    extractor(pixels[:batch])
    synchronize(device)
    start = time.perf_counter()
    for some in pixels.split(batch):
        extractor(some)
    synchronize(device)
    features = (time.perf_counter() - start) * images / probe

    def add(seed: int, add_features: Callable[[Features, int], object]) -> None:
        source = torch.Generator().manual_seed(seed)
        logits = None if extractor.classes is None else torch.zeros(batch, extractor.classes, device=device)
        for first in range(0, images, batch):
            count = min(batch, images - first)
            rows = torch.randn(count, extractor.dim, generator=source).abs().to(device)
            add_features(Features(rows, None if logits is None else logits[:count]), first)

    statistics_of_real = FeatureStatistics(extractor.dim, images).to(device)
    add(1, lambda features, first: statistics_of_real.update(features.values, first))
    real = statistics_of_real.compute()
    compared = Reference(real.gaussian, real.features, None, {}, "random numbers")
    metrics = MetricSet.of(compared, extractor, images)
    start = time.perf_counter()
    add(0, lambda features, first: metrics.add(pixels, features, first))
    metrics.compute()
    synchronize(device)
    statistics = time.perf_counter() - start
    return {"sampling": call * STEPS * images / batch, "features": features, "statistics": statistics}


def main() -> None:
    """Measure all candidates, print the table and write the results."""
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--images", type=int, default=10_000, help="images to score")
    parser.add_argument("--probe", type=int, default=512, help="images whose Inception features are measured")
    parser.add_argument("--batch-size", type=int, default=256, help="images at once")
    given = parser.parse_args()
    device = torch.device(given.device)
    with tempfile.TemporaryDirectory() as folder:
        weights = write_random_inception(Path(folder, "inception.pth"))
        inception = InceptionConfig(weights=str(weights))
        measured = {
            "digits, digits_v1": stages(
                "digits", DigitsExtractorConfig(), given.images, given.images, given.batch_size, device
            ),
            "fashion_mnist, inception": stages(
                "fashion_mnist", inception, given.images, given.probe, given.batch_size, device
            ),
        }
    rows = [
        [name, *(f"{each:.1f}" for each in taken.values()), f"{sum(taken.values()):.0f}"]
        for name, taken in measured.items()
    ]
    columns = ["network, extractor", f"sampling (DDIM-{STEPS}), s", "features, s", "statistics, s", "all, s"]
    report(given, "scoring", columns, rows, seconds=measured)


if __name__ == "__main__":
    main()
