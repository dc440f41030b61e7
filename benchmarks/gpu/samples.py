"""Compare DDIM-50 and the first 100 steps of DDPM-1000 on the CIFAR-10 network with the bare calls and diffusers."""

import argparse
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import islice

import networks
import torch
from candidates import Measured, Run, measure
from measuring import quotients, report, seconds, spread
from networks import SIZES, Size

from diffexp.config.schemas.samplers import DDIMConfig, DDPMConfig
from diffexp.models.diffusion import DiffusionModule
from diffexp.models.precision import sampling_precision
from diffexp.rng import PerSampleNoise

STEPS, DDPM_STEPS = 50, 100
_FOR_GOOD = ExitStack()
DIFFUSERS = "diffusers DDIMPipeline"
# The bare calls that each of our candidates is compared with.
BARE = {
    "ours, 32-true": "bare calls, 32-true",
    "ours, bf16-mixed": "bare calls, bf16-mixed",
    "ours, bf16-true": "bare calls, bf16-true",
    "ours, bf16-mixed, CUDA graphs": "bare replays, bf16-mixed",
    "ours, bf16-true, CUDA graphs": "bare replays, bf16-true",
    "ours, DDPM, bf16-mixed, CUDA graphs": "bare replays, as DDPM, bf16-mixed",
}


def prepared(size: Size, device: torch.device, precision: str, *, graphs: bool) -> DiffusionModule:
    """Our module in evaluation mode; for bf16-true, its weights stay rounded for the rest of the process."""
    module = size.module().to(device).eval()
    networks.wake(module.network)
    if graphs:
        module.use_cuda_graphs()
    if precision == "bf16-true":
        _FOR_GOOD.enter_context(sampling_precision(module, precision))
    return module


def ours(size: Size, device: torch.device, images: int, precision: str, *, graphs: bool = False) -> Run:
    """Build DDIM-50 as `diffexp sample` calls it."""
    module = prepared(size, device, precision, graphs=graphs)
    mode = "32-true" if precision == "bf16-true" else precision

    def run() -> None:
        with sampling_precision(module, mode):
            module.sample(DDIMConfig(steps=STEPS), range(images), 0)

    return run


def compiled(size: Size, device: torch.device, images: int) -> Run:
    """Build `ours` in bf16-mixed, compiled."""
    module = prepared(size, device, "bf16-mixed", graphs=False)
    module.compile_network(sampling=True)

    def run() -> None:
        with sampling_precision(module, "bf16-mixed"):
            module.sample(DDIMConfig(steps=STEPS), range(images), 0)

    return run


def ddpm(size: Size, device: torch.device, images: int, precision: str) -> Run:
    """Build the first steps of DDPM-1000 with CUDA graphs."""
    module = prepared(size, device, precision, graphs=True)

    def run() -> None:
        noise = PerSampleNoise(0, range(images), module.x_shape, device)
        with sampling_precision(module, precision):
            for _ in islice(module.trajectory(DDPMConfig(), noise), DDPM_STEPS):
                pass

    return run


def bare(size: Size, device: torch.device, images: int, precision: str, calls: int, *, graphs: bool = False) -> Run:
    """Build the bare network calls, or replays of their CUDA graph."""
    module = prepared(size, device, precision, graphs=graphs)
    mode = "32-true" if precision == "bf16-true" else precision
    x, t = torch.randn(images, *size.image_shape, device=device), torch.full((images,), 500, device=device)
    x = x.bfloat16() if precision == "bf16-true" else x
    network = module.graphs or module.network

    @torch.no_grad()
    def run() -> None:
        with sampling_precision(module, mode):
            for _ in range(calls):
                network(x, t)

    return run


def pipeline(size: Size, device: torch.device, images: int) -> Run:
    """Build diffusers' pipeline as its users call it."""
    from diffusers import DDIMPipeline, DDIMScheduler

    theirs = DDIMPipeline(networks.wake(size.diffusers()).eval(), DDIMScheduler()).to(device)
    theirs.set_progress_bar_config(disable=True)
    return lambda: theirs(batch_size=images, num_inference_steps=STEPS, output_type="np")


def makers(size: Size, device: torch.device, images: int, *, all_of_them: bool) -> dict[str, Callable[[], Run]]:
    """Functions that build each candidate; without `all_of_them`, only the options that users of a GPU would choose."""
    every: dict[str, Callable[[], Run]] = {DIFFUSERS: partial(pipeline, size, device, images)}
    for precision in ("32-true", "bf16-mixed", "bf16-true") if all_of_them else ("bf16-mixed",):
        every[f"bare calls, {precision}"] = partial(bare, size, device, images, precision, STEPS)
        every[f"ours, {precision}"] = partial(ours, size, device, images, precision)
    for precision in ("bf16-mixed", "bf16-true"):
        every[f"bare replays, {precision}"] = partial(bare, size, device, images, precision, STEPS, graphs=True)
        every[f"ours, {precision}, CUDA graphs"] = partial(ours, size, device, images, precision, graphs=True)
    if not all_of_them:
        return every
    every["ours, bf16-mixed, compiled"] = partial(compiled, size, device, images)
    replays = partial(bare, size, device, images, "bf16-mixed", DDPM_STEPS, graphs=True)
    every["bare replays, as DDPM, bf16-mixed"] = replays
    every["ours, DDPM, bf16-mixed, CUDA graphs"] = partial(ddpm, size, device, images, "bf16-mixed")
    return every


def main(given: argparse.Namespace, images: int, *, all_of_them: bool = True) -> None:
    """Measure all candidates; print the table and write the results after every round.

    Args:
        given: options: device, out, rounds, size and quick.
        images: images at once.
        all_of_them: see `makers`.
    """
    size, device = SIZES[given.size], torch.device(given.device)
    noise = PerSampleNoise(0, range(images), size.image_shape, device)
    noise.draw()
    draws = 64
    draw = seconds(lambda: [noise.draw() for _ in range(draws)], device) / draws
    columns = ["sampling", "s", "images/s", "× diffusers", "over the bare calls"]

    def write(measured: Measured) -> None:
        rows, over = [], {}
        for name, took in measured.seconds.items():
            floor = measured.seconds.get(BARE.get(name, ""), [])
            if floor:
                over[name] = statistics.median(quotients(took, floor)) - 1
            base = measured.bases[name] if name.startswith("ours") and "DDPM" not in name else []
            rows.append(
                [
                    name,
                    f"{statistics.median(took):.3f}",
                    "" if "DDPM" in name else f"{images / statistics.median(took):.1f}",  # the first steps only
                    spread(quotients(base, took)) if base else "",
                    f"{over[name]:+.1%}" if name in over else "",
                ]
            )
        rows += measured.missing_rows(len(columns))
        rows.append([f"noise alone: {1000 * draw:.3f} ms a draw", "", "", "", ""])
        report(
            *(given, f"sampling-{given.size}-{images}", columns, rows),
            **{"seconds": measured.seconds, "bases": measured.bases, "over_bare_calls": over, "draw_seconds": draw},
        )

    every = makers(size, device, images, all_of_them=all_of_them)
    late = {name: every.pop(name) for name in list(every) if "compiled" in name}
    late = {} if given.quick else late  # compiling would take most of a rehearsal
    measure(every, late, DIFFUSERS, given.rounds, device, write)
