"""Measure how well DDIM reconstructs real images that it has encoded: the table of docs/guides/likelihood.md.

python docs/results/encoding.py RUN
"""

import sys
from pathlib import Path

import torch

from diffexp.checkpoints.load import build_trained, load_trained
from diffexp.data.datamodule import ImageDataModule
from diffexp.data.images import to_float
from diffexp.diffusion.encoding import encode
from diffexp.diffusion.paths import timestep_path
from diffexp.diffusion.samplers.ddim import DDIM
from diffexp.models.diffusion import DiffusionModule

STEPS = (10, 20, 50, 100, 200, 500, 1000)


@torch.no_grad()
def error(model: DiffusionModule, images: torch.Tensor, steps: int) -> float:
    """Mean squared error per pixel of encoding and decoding, pixels in [0, 1] (Song et al. 2021, Table 2)."""
    denoiser, path = model.prediction.denoiser(model.network), timestep_path(model.schedule.timesteps, steps, "leading")
    x_T = encode(denoiser, model.schedule, path, images)  # noqa: N806
    *_, last = DDIM().trajectory(denoiser, model.schedule, path, x_T, lambda: x_T)
    return (last.x - images).div(2).square().mean().item()


if __name__ == "__main__":
    trained = load_trained(Path(sys.argv[1]))
    model = build_trained(trained, "ema", "cpu")
    assert isinstance(model, DiffusionModule)
    data = ImageDataModule.from_config(trained.experiment.data, 1, 0).images("test")
    images = to_float(data.fetch(torch.arange(min(100, len(data)))))
    print("| S |", " | ".join(map(str, STEPS)), "|")
    print("|---" * (len(STEPS) + 1) + "|")
    print("| error |", " | ".join(f"{error(model, images, steps):.2g}" for steps in STEPS), "|")
