"""Seconds for scoring images of the CIFAR-10 network by stage, with Inception's network, and what 50,000 would take."""

import argparse
import sys
import tempfile
from pathlib import Path

import networks
import torch
from measuring import report, seconds
from networks import SIZES

from diffexp.config.evaluation import InceptionConfig
from diffexp.config.samplers import DDIMConfig
from diffexp.evaluation.extractors import build_extractor
from diffexp.evaluation.extractors.base import Features
from diffexp.evaluation.gathering import Gathered, Gathering
from diffexp.evaluation.references import Reference
from diffexp.evaluation.scores import measure
from diffexp.models.base import as_pixels
from diffexp.models.diffusion import DiffusionModule
from diffexp.models.precision import sampling_precision

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.inception import write_random_inception

STEPS, MANY = 50, 50_000


def main(given: argparse.Namespace, images: int, batch_size: int) -> None:
    """Measure, print and write.

    Args:
        given: device, out and size.
        images: scored.
        batch_size: images at once; sampling is measured on one batch, features on four, and both are extrapolated.
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

    def gather(seed: int) -> Gathered:
        source = torch.Generator(device).manual_seed(seed)
        gathering = Gathering(images, extractor.dim, None, extractor.device)
        for first in range(0, images, batch_size):
            count = min(batch_size, images - first)
            rows = torch.randn(count, extractor.dim, generator=source, device=device).abs()
            gathering.add(Features(rows, None), first)
        return gathering.result()

    real = gather(1)
    compared = Reference(real.gaussian, real.bank, None, {}, "random numbers")
    gathering = seconds(lambda: gather(0), device)
    statistics = seconds(lambda: measure(gather(0), compared), device)
    rows, all_50k = [], {}
    for name, each in sampling.items():
        total = images * (each + features) + statistics
        all_50k[name] = MANY * (each + features + gathering / images) + statistics - gathering
        parts = [images * each, images * features, statistics, total, all_50k[name]]
        rows.append([name, *(f"{part:.1f}" for part in parts)])
    columns = ["sampling in", f"sampling (DDIM-{STEPS}), s", "features, s", "statistics, s"]
    columns += [f"{images:,} images, s", f"{MANY:,} images, s"]
    report(given, f"scoring-{given.size}", columns, rows, sampling=sampling, features=features, many=all_50k)
