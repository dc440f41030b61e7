"""Compare sampling with the bare network calls, and with the peers' pipelines.

    python benchmarks/sampling.py [--size fashion_mnist|cifar10|digits] [--images 64] [--rounds 3] [--compile]

- Overhead: each step of `DiffusionModule.trajectory` follows one bare call of the network on as many images in the same
  precision. DDPM over all T = 1000 steps is measured over its first --steps.
- Pipelines: each library draws complete samples, in alternation, with the same number of images and network calls and
  the same architecture.
"""

import os
import statistics
import time
from collections.abc import Callable
from itertools import islice

os.environ["TQDM_DISABLE"] = "1"  # progress bars of denoising-diffusion-pytorch; read at import

import networks
import torch
from denoising_diffusion_pytorch import GaussianDiffusion
from diffusers import DDIMPipeline, DDIMScheduler
from measuring import alternate, arguments, quotients, report, spread, synchronize
from networks import SIZES, Size

from diffexp.config.schemas.samplers import DDIMConfig, DDPMConfig, DiffusionSamplerConfig, DPMSolverConfig
from diffexp.models.diffusion import DiffusionModule
from diffexp.rng import PerSampleNoise
from diffexp.system.devices import autocast, precision_for

STEPS = 50


def overhead(
    module: DiffusionModule, sampler: DiffusionSamplerConfig, images: int, steps: int, precision: str
) -> tuple[list[float], list[float]]:
    """Measure the seconds of each sampler step, and of the bare network call before it."""
    device = module.device
    x = torch.randn(images, *module.image_shape, device=device)
    t = torch.full((images,), 500, device=device)
    walk = module.trajectory(sampler, PerSampleNoise(0, range(images), module.image_shape, device))
    taken: list[float] = []
    bare: list[float] = []

    def timed(into: list[float], function: Callable[[], object]) -> None:
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        into.append(time.perf_counter() - start)

    def call() -> None:
        with torch.no_grad():
            module.network(x, t)

    with autocast(precision, device):
        call()
        for _ in islice(range(module.network_calls(sampler)), steps):
            timed(bare, call)
            timed(taken, lambda: next(walk))
    return taken[1:], bare[1:]


def pipelines(size: Size, images: int, device: torch.device, *, compiled: bool) -> dict[str, Callable[[], object]]:
    """Functions, by name, that sample by DDIM in 50 steps as the users of each library do."""
    module = networks_of(size, device)
    precision = precision_for("auto", device)

    def ours(module: DiffusionModule, precision: str) -> Callable[[], object]:
        def run() -> object:
            with autocast(precision, device):
                return module.sample(DDIMConfig(steps=STEPS), range(images), 0)

        return run

    pipeline = DDIMPipeline(networks.wake(size.diffusers()).eval(), DDIMScheduler()).to(device)
    pipeline.set_progress_bar_config(disable=True)
    side = size.image_shape[1]
    lucidrains = GaussianDiffusion(
        networks.wake(size.lucidrains()).eval(), image_size=side, sampling_timesteps=STEPS, objective="pred_noise"
    ).to(device)
    candidates = {
        "diffusers DDIMPipeline": lambda: pipeline(batch_size=images, num_inference_steps=STEPS, output_type="np"),
        "denoising-diffusion-pytorch sample": lambda: lucidrains.sample(batch_size=images),
        "ours, 32-true": ours(module, "32-true"),
        f"ours, {precision} (default)": ours(module, precision),
    }
    if compiled:
        again = networks_of(size, device)
        again.compile_network(sampling=True)
        candidates[f"ours, {precision}, compiled"] = ours(again, precision)
    return candidates


def networks_of(size: Size, device: torch.device) -> DiffusionModule:
    """Our module, in evaluation mode."""
    module = size.module().to(device).eval()
    networks.wake(module.network)
    return module


def main() -> None:
    """Measure all candidates, print the table and write the results."""
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--size", choices=list(SIZES), default="fashion_mnist")
    parser.add_argument("--images", type=int, default=64, help="images per sample")
    parser.add_argument("--steps", type=int, default=100, help="measured steps of DDPM-1000")
    parser.add_argument("--compile", action="store_true", help="also measure ours compiled; half a minute")
    given = parser.parse_args()
    size, device = SIZES[given.size], torch.device(given.device)
    candidates = pipelines(size, given.images, device, compiled=given.compile)
    measured = alternate(candidates, given.rounds, device)
    base = measured["diffusers DDIMPipeline"]
    rows = [
        [
            name,
            f"{statistics.median(took):.2f}",
            f"{given.images / statistics.median(took):.1f}",
            spread(quotients(base, took)),
        ]
        for name, took in measured.items()
    ]
    report(
        given, f"sampling_pipelines-{given.size}", ["DDIM-50", "s", "images/s", "× diffusers"], rows, seconds=measured
    )

    module, precision = networks_of(size, device), precision_for("auto", device)
    rows, steps = [], {}
    samplers = {
        "DDPM-1000": DDPMConfig(),
        "DDIM-50": DDIMConfig(steps=STEPS),
        "DPM-Solver++-20": DPMSolverConfig(steps=20),
    }
    for name, sampler in samplers.items():
        for each in ("32-true", precision):
            taken, bare = overhead(module, sampler, given.images, given.steps, each)
            steps[f"{name}, {each}"] = {"step": taken, "call": bare}
            added = [one - other for one, other in zip(taken, bare, strict=True)]
            rows.append(
                [
                    f"{name}, {each}",
                    f"{1000 * statistics.median(bare):.1f}",
                    f"{1000 * statistics.median(added):.2f}",
                    f"{statistics.median(quotients(taken, bare)) - 1:+.1%}",
                ]
            )
    columns = ["sampler", "ms a call", "ms a step beyond it", "overhead"]
    report(given, f"sampling_overhead-{given.size}", columns, rows, seconds=steps)


if __name__ == "__main__":
    main()
