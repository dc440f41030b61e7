"""Compare a training step of the CIFAR-10 network with the peers', in images per second."""

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import networks
import torch
import train_step
from candidates import Measured, Run, measure
from measuring import flop_counter, matmul_peak, quotients, report, spread
from networks import SIZES, Size
from torch import Tensor, nn

DIFFUSERS, DIFFUSERS_BF16 = "diffusers, its script's default", "diffusers, bf16"
OURS = "ours, bf16-mixed"


def makers(size: Size, device: torch.device) -> dict[str, Callable[[], tuple[nn.Module, train_step.Step]]]:
    """Functions, by name, that build a network and its training step."""

    return {
        DIFFUSERS: partial(train_step.diffusers, size, device, "32-true"),
        DIFFUSERS_BF16: partial(train_step.diffusers, size, device, "bf16-mixed"),
        "denoising-diffusion-pytorch, its default": partial(train_step.lucidrains, size, device, "32-true"),
        "ours, 32-true": partial(train_step.ours, size, device, "32-true"),
        OURS: partial(train_step.ours, size, device, "bf16-mixed"),
        f"{OURS}, channels_last": partial(train_step.ours, size, device, "bf16-mixed", channels_last=True),
        f"{OURS}, compiled": partial(train_step.ours, size, device, "bf16-mixed", compiled=True),
    }


def main(given: argparse.Namespace, batch_size: int, steps: int) -> None:
    """Measure all candidates; print the table and write the results after every round.

    Args:
        given: options: device, out, rounds, size and quick.
        batch_size: images per step.
        steps: steps per measurement.
    """
    size, device = SIZES[given.size], torch.device(given.device)
    x0 = torch.rand(batch_size, *size.image_shape, device=device) * 2 - 1
    made: dict[str, tuple[nn.Module, train_step.Step]] = {}
    flops: dict[str, float] = {}

    def make(name: str, maker: Callable[[], tuple[nn.Module, train_step.Step]]) -> Run:
        made[name] = maker()
        step = made[name][1]
        library = name.split(",")[0]
        if library not in flops:
            with flop_counter() as counter:
                step(x0[:2])
            flops[library] = counter.get_total_flops() / 2
        return lambda: several(step, x0, steps)

    torch._dynamo.reset()  # otherwise the second batch size triggers compilation for dynamic shapes
    peak = matmul_peak(torch.bfloat16, device)
    columns = ["step", "parameters", "ms", "images/s", "of bf16 peak", "MiB at most", "× diffusers"]

    def write(measured: Measured) -> None:
        rows = []
        for name, seconds in measured.seconds.items():
            took = [each / steps for each in seconds]
            rate = batch_size / statistics.median(took)
            used = measured.memory.get(name)
            rows.append(
                [
                    name,
                    f"{networks.parameters(made[name][0]):,}",
                    f"{1000 * statistics.median(took):.1f}",
                    f"{rate:.0f}",
                    f"{flops[name.split(',')[0]] * rate / peak:.1%}",
                    "" if used is None else f"{used / 2**20:.0f}",
                    spread(quotients(measured.bases[name], seconds)) if measured.bases[name] else "",
                ]
            )
        rows += measured.missing_rows(len(columns))
        facts = {
            "seconds": measured.seconds,
            "bases": measured.bases,
            "memory": measured.memory,
            "steps": steps,
            "flops": flops,
            "peak": peak,
        }
        report(given, f"train_step-{given.size}-{batch_size}", columns, rows, **facts)

    every = {name: partial(make, name, maker) for name, maker in makers(size, device).items()}
    late = {name: every.pop(name) for name in list(every) if "compiled" in name}
    late = {} if given.quick else late  # compiling would take most of a rehearsal
    measure(every, late, DIFFUSERS, given.rounds, device, write)


def several(step: train_step.Step, x0: Tensor, steps: int) -> None:
    """Take several steps."""
    for _ in range(steps):
        step(x0)
