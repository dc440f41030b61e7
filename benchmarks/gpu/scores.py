"""Measure each stage of scoring images of the CIFAR-10 network with Inception; extrapolate to 50,000 images."""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import networks
import torch
from measuring import report, seconds
from networks import SIZES

from diffexp.config.schemas.extractors import InceptionConfig
from diffexp.config.schemas.samplers import DDIMConfig
from diffexp.evaluation.extractors import build_extractor
from diffexp.evaluation.extractors.base import Features
from diffexp.evaluation.feature_statistics import FeatureStatistics
from diffexp.evaluation.metrics.metric_set import MetricSet
from diffexp.evaluation.reference import Reference
from diffexp.models.base import as_pixels
from diffexp.models.diffusion import DiffusionModule
from diffexp.models.precision import sampling_precision

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.helpers.inception import write_random_inception

STEPS, MANY = 50, 50_000


def main(given: argparse.Namespace, images: int, batch_size: int) -> None:
    """Measure all stages, print the table and write the results.

    Args:
        given: options: device, out and size.
        images: images to score.
        batch_size: images at once. Sampling is measured on one batch and features on four; both are extrapolated.
    """
    size, device = SIZES[given.size], torch.device(given.device)
    sampling = {}
    for precision, graphs in (("bf16-mixed", False), ("bf16-mixed", True), ("bf16-true", True)):
        module = size.module().to(device).eval()
        networks.wake(module.network)
        if graphs:
            module.use_cuda_graphs()

        def sample(module: DiffusionModule = module) -> None:
            as_pixels(module.sample(DDIMConfig(steps=STEPS), range(batch_size), 0))

        with sampling_precision(module, precision):
            sample()
            took = seconds(sample, device)
        sampling[f"{precision}{', CUDA graphs' if graphs else ''}"] = took / batch_size
        del module

    with tempfile.TemporaryDirectory() as folder:
        weights = write_random_inception(Path(folder, "inception.pth"))
        extractor = build_extractor(InceptionConfig(weights=str(weights)), size.image_shape).to(device)
    pixels = torch.randint(256, (4 * batch_size, *size.image_shape), dtype=torch.uint8, device=device)
    extractor(pixels[:batch_size])
    features = seconds(lambda: [extractor(some) for some in pixels.split(batch_size)], device) / len(pixels)

    def add(seed: int, add_features: Callable[[Features, int], object]) -> None:
        source = torch.Generator(device).manual_seed(seed)
        logits = torch.zeros(batch_size, extractor.classes or 0, device=device)
        for first in range(0, images, batch_size):
            count = min(batch_size, images - first)
            rows = torch.randn(count, extractor.dim, generator=source, device=device).abs()
            add_features(Features(rows, logits[:count]), first)

    statistics_of_real = FeatureStatistics(extractor.dim, images).to(device)
    add(1, lambda features, first: statistics_of_real.update(features.values, first))
    real = statistics_of_real.compute()
    metrics = MetricSet.of(Reference(real.gaussian, real.features, None, {}, "random numbers"), extractor, images)

    def gather() -> None:
        metrics.reset()
        add(0, lambda some, first: metrics.add(pixels, some, first))

    def score() -> None:
        gather()
        metrics.compute()

    gathering = seconds(gather, device)
    statistics = seconds(score, device)
    rows, all_50k = [], {}
    for name, each in sampling.items():
        total = images * (each + features) + statistics
        all_50k[name] = MANY * (each + features + gathering / images) + statistics - gathering
        parts = [images * each, images * features, statistics, total, all_50k[name]]
        rows.append([name, *(f"{part:.1f}" for part in parts)])
    columns = ["sampling in", f"sampling (DDIM-{STEPS}), s", "features, s", "statistics, s"]
    columns += [f"{images:,} images, s", f"{MANY:,} images, s"]
    report(given, f"scoring-{given.size}", columns, rows, sampling=sampling, features=features, many=all_50k)
