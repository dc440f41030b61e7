"""Measure what each optimisation of our training step gives.

    python benchmarks/levers.py [--size fashion_mnist|cifar10|digits] [--rounds 9] [--compile]

Each row replaces one optimisation by the usual implementation, and runs in alternation with the default step. "gain of
ours" is the time of the row divided by that of the default. Rows in parentheses are options that are off by default.
"""

import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from unittest import mock

import torch
import train_step
from measuring import alternate, arguments, quotients, report, spread
from networks import SIZES, Size
from torch import Tensor, nn
from torch.nn import functional as F

from diffexp.networks import blocks, unet
from diffexp.system.devices import precision_for


class Interpolated(blocks.Upsample):
    """An upsampling layer that doubles the image with F.interpolate."""

    def forward(self, x: Tensor) -> Tensor:
        """Double height and width of x (B, C, H, W)."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


def usual_ways(size: Size, device: torch.device, precision: str) -> dict[str, Callable[[], Callable[[Tensor], object]]]:
    """Functions that build a training step, by the name of the usual implementation in it."""

    def make(size: Size = size, precision: str = precision, compiled: bool = False) -> Callable[[Tensor], object]:
        return train_step.ours(size, device, precision, compiled=compiled)[1]

    def patched(target: object, name: str, usual: object) -> Callable[[], Callable[[Tensor], object]]:
        def build() -> Callable[[Tensor], object]:
            with mock.patch.object(target, name, usual):
                step = make()

            def run(x0: Tensor) -> None:
                with mock.patch.object(target, name, usual):
                    step(x0)

            return run

        return build

    def channels_last() -> Callable[[Tensor], object]:
        _, step = train_step.ours(size, device, precision, channels_last=True)
        return lambda x0: step(x0.contiguous(memory_format=torch.channels_last))

    return {
        "default": make,
        "float32 instead of bf16": partial(make, precision="32-true"),
        "torch's fused attention": patched(blocks, "attend", F.scaled_dot_product_attention),
        "torch's dropout": patched(blocks, "Dropout", nn.Dropout),
        "F.interpolate": patched(unet, "Upsample", Interpolated),
        "AdamW by torch's default": patched(torch.optim, "AdamW", partial(_unfused, torch.optim.AdamW)),
        "average weight by weight": patched(torch, "_foreach_lerp_", _one_by_one),
        "(no dropout)": partial(make, replace(size, dropout=0.0)),
        "(gradient_checkpointing)": partial(make, replace(size, gradient_checkpointing=True)),
        "(channels_last)": channels_last,
    }


def _unfused(adamw: type[torch.optim.Optimizer], *arguments: object, **options: object) -> torch.optim.Optimizer:
    return adamw(*arguments, **{**options, "fused": None})


def _one_by_one(averages: list[Tensor], weights: list[Tensor], share: float) -> None:
    for average, weight in zip(averages, weights, strict=True):
        average.sub_(share * (average - weight))


def main() -> None:
    """Measure all candidates, print the table and write the results."""
    parser = arguments(__doc__, rounds=9)
    parser.add_argument("--size", choices=list(SIZES), default="fashion_mnist")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile; a minute or two")
    given = parser.parse_args()
    size, device = SIZES[given.size], torch.device(given.device)
    precision = precision_for("auto", device)
    x0 = torch.rand(size.batch_size, *size.image_shape, device=device) * 2 - 1
    makers = usual_ways(size, device, precision)
    candidates = {name: partial(make(), x0) for name, make in makers.items()}
    if given.compile:
        candidates["(compiled)"] = partial(train_step.ours(size, device, precision, compiled=True)[1], x0)
    measured = alternate(candidates, given.rounds, device)
    rows = [
        [name, f"{1000 * statistics.median(took):.1f}", spread(quotients(took, measured["default"]))]
        for name, took in measured.items()
    ]
    report(given, f"levers-{given.size}", ["instead", "ms a step", "gain of ours"], rows, seconds=measured)


if __name__ == "__main__":
    main()
