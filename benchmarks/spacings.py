"""Compare timestep spacings with exact denoisers, where only the error of the path remains.

    python benchmarks/spacings.py [--images FOLDER|ZIP]

The best denoiser of a Gaussian is linear, and every sampler then maps each principal component of the noise by an
affine function. So the squared Wasserstein-2 distance between samples and data has a closed form. The data are the
Gaussians of the digits, of the digits enlarged to 32×32, of a 32×32 image with one bright axis, and of --images.

Print Markdown tables and write benchmarks/results/spacings.json. For each spacing they show the distance as a multiple
of that of the best spacing, and the share of bright samples for data of which 20 % are bright.
"""

import argparse
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from diffexp.data.load_images import load_images
from diffexp.diffusion.paths import SPACINGS, timestep_path
from diffexp.diffusion.predictions import Denoised, Denoiser
from diffexp.diffusion.samplers.base import Sampler
from diffexp.diffusion.samplers.ddim import DDIM
from diffexp.diffusion.samplers.dpmpp import DPMSolver
from diffexp.diffusion.samplers.unipc import UniPC
from diffexp.diffusion.schedules import Schedule, cosine, linear

TIMESTEPS = 1000
STEPS = (5, 10, 20, 50)
SCHEDULES = {"cosine": Schedule(cosine(TIMESTEPS)), "linear": Schedule(linear(TIMESTEPS))}
SAMPLERS: dict[str, Sampler] = {
    "DDIM": DDIM(),
    "DDIM, η = 1": DDIM(1.0),
    "DPM-Solver++ 2": DPMSolver(2),
    "UniPC 2": UniPC(2),
}


@dataclass(frozen=True)
class Components:
    """A Gaussian in its principal components.

    Attributes:
        mean, std: mean and standard deviation along each component, float64 (D,).
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, images: Tensor) -> "Components":
        """Fit a Gaussian to images (N, D) in [-1, 1]."""
        variances, axes = torch.linalg.eigh(images.T.cov())
        return cls(axes.T @ images.mean(0), variances.clamp(min=0).sqrt())

    def denoiser(self, schedule: Schedule) -> Denoiser:
        """The exact denoiser: E[x_0 | x_t] for x_t (…, D), and the corresponding ε."""

        def denoise(x_t: Tensor, t: int) -> Denoised:
            alpha_bar = schedule.alpha_bar(t)
            signal = alpha_bar**0.5
            gain = signal * self.std**2 / (alpha_bar * self.std**2 + 1 - alpha_bar)
            x0 = self.mean + gain * (x_t - signal * self.mean)
            return Denoised(x0, (x_t - signal * x0) / (1 - alpha_bar) ** 0.5)

        return denoise


def w2(data: Components, schedule: Schedule, sampler: Sampler, steps: int, spacing: str) -> float:
    """The squared Wasserstein-2 distance between the data and the sampler's output for N(0, I)."""
    path = timestep_path(schedule.timesteps, steps, spacing, schedule.alphas_cumprod.tolist())
    # Row 0 starts from 0 without noise, row 1 from 1, and row 2+j gets a unit of noise at the sampler's call j.
    rows = torch.zeros(2 + steps, len(data.mean), dtype=torch.float64)
    rows[1] = 1
    calls = iter(range(2, 2 + steps))

    def noise() -> Tensor:
        unit = torch.zeros_like(rows)
        unit[next(calls)] = 1
        return unit

    *_, last = sampler.trajectory(data.denoiser(schedule), schedule, path, rows, noise)
    mean = last.x[0]
    std = (last.x[1:] - mean).square().sum(0).sqrt()
    return float((mean - data.mean).square().sum() + (std - data.std).square().sum())


def bright_share(schedule: Schedule, sampler: Sampler, steps: int, spacing: str, images: int = 4000) -> float:
    """The share of bright samples for 32×32 images that are bright (0.5) with probability 0.2, else dark (-0.5).

    Each pixel has a standard deviation of 0.05. Only the axis of brightness matters; its means are ±0.5 · 32.
    """
    means = torch.tensor([-0.5, 0.5], dtype=torch.float64) * 32
    prior = torch.tensor([0.8, 0.2], dtype=torch.float64).log()

    def denoise(x_t: Tensor, t: int) -> Denoised:
        alpha_bar = schedule.alpha_bar(t)
        signal, variance = alpha_bar**0.5, alpha_bar * 0.05**2 + 1 - alpha_bar
        off = x_t[:, None] - signal * means
        share = (prior - off**2 / (2 * variance)).softmax(1)
        x0 = (share * (means + signal * 0.05**2 / variance * off)).sum(1)
        return Denoised(x0, (x_t - signal * x0) / (1 - alpha_bar) ** 0.5)

    path = timestep_path(schedule.timesteps, steps, spacing, schedule.alphas_cumprod.tolist())
    source = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, images, generator=source, dtype=torch.float64)
    *_, last = sampler.trajectory(denoise, schedule, path, draw(), draw)
    return float((last.x > 0).double().mean())


def gaussians(images: Path | None) -> dict[str, Components]:
    """The Gaussians, by name."""
    digits = Components.of(torch.from_numpy(load_digits().images).flatten(1) / 8 - 1)
    axis = torch.full((1024,), 0.3, dtype=torch.float64)
    axis[0] = 12
    found = {
        "digits": digits,
        "digits, 32×32": Components(4 * digits.mean, 4 * digits.std),
        "bright axis, 32×32": Components(torch.where(axis == 12, -18.0, 0.0), axis),
    }
    if images is not None:
        given = load_images(images)
        pixels = given.fetch(torch.arange(0, len(given), max(1, len(given) // 4000)))
        found[images.stem] = Components.of(pixels.flatten(1).double() / 127.5 - 1)
    return found


def multiples(distances: Mapping[str, Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """For each spacing, the geometric mean over the data and the largest of distance / best spacing's distance."""
    best = {name: min(each[name] for each in distances.values()) for name in next(iter(distances.values()))}
    ratios = {spacing: [each[name] / best[name] for name in best] for spacing, each in distances.items()}
    return {spacing: (math.exp(sum(map(math.log, each)) / len(each)), max(each)) for spacing, each in ratios.items()}


def markdown(corner: str, columns: Iterable[str], rows: Mapping[str, Iterable[str]]) -> str:
    """Format a Markdown table."""
    head = [corner, *columns]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items())]) + "\n"


def main() -> None:
    """Measure all spacings, print the tables and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder or zip of square images of one size")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the result")
    options = parser.parse_args()
    data = gaussians(options.images)
    measured = [
        {
            "schedule": schedule_name,
            "sampler": sampler_name,
            "steps": steps,
            "w2": {
                spacing: {name: w2(each, schedule, sampler, steps, spacing) for name, each in data.items()}
                for spacing in SPACINGS
            },
            "bright": {spacing: bright_share(schedule, sampler, steps, spacing) for spacing in SPACINGS},
        }
        for schedule_name, schedule in SCHEDULES.items()
        for sampler_name, sampler in SAMPLERS.items()
        for steps in STEPS
    ]
    for schedule_name in SCHEDULES:
        for steps in (10, 20):
            chosen = [each for each in measured if (each["schedule"], each["steps"]) == (schedule_name, steps)]
            found = {each["sampler"]: multiples(each["w2"]) for each in chosen}
            rows = {
                spacing: [f"{found[name][spacing][0]:.3g} ({found[name][spacing][1]:.3g})" for name in SAMPLERS]
                for spacing in SPACINGS
            }
            print(markdown(f"{schedule_name}, {steps} calls", SAMPLERS, rows))
    chosen = [each for each in measured if each["sampler"] in ("DDIM", "DPM-Solver++ 2")]
    columns = [f"{each['schedule']}, {each['sampler']}, {each['steps']}" for each in chosen]
    print(markdown("share of bright images", columns, {s: [f"{e['bright'][s]:.3f}" for e in chosen] for s in SPACINGS}))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "spacings.json").write_text(json.dumps(measured, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
