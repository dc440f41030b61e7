"""Draw docs/images/ddpm_ddim.png: DDPM compared with DDIM at six moments between noise and image.

    diffexp train digits training.max_steps=1000 run_dir=RUN
    python docs/images/ddpm_ddim.py RUN docs/images/ddpm_ddim.png

RUN is a run of a diffusion model with T = 1000, a checkpoint or an exported file.
"""

import sys

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.nn import functional as F

import diffexp
from diffexp import DDIM, DDPM, clipped, timestep_path
from diffexp.diffusion.samplers.base import Sampler

SAMPLERS: list[tuple[str, Sampler, int]] = [("DDPM", DDPM(), 1000), ("DDIM, η = 0", DDIM(), 50)]  # with their steps
MOMENTS = (999, 799, 599, 399, 199)  # t; the sixth moment is the image
IMAGES = 2  # in each cell


@torch.no_grad()
def moments(model: diffexp.DiffusionModule, sampler: Sampler, steps: int) -> list[tuple[Tensor, Tensor]]:
    """Sample from the same x_T as every other call, and return (x_t, x̂_0) at each moment."""
    schedule = model.schedule
    denoiser = clipped(model.prediction.denoiser(model.network), schedule)
    path = timestep_path(schedule.timesteps, steps, "trailing")  # visits the moments both in 50 and in 1000 steps
    source = torch.Generator().manual_seed(1)

    def noise() -> Tensor:
        return torch.randn(IMAGES, *model.image_shape, generator=source)

    x, seen = noise(), {}
    for (t, _), state in zip(path, sampler.trajectory(denoiser, schedule, path, x, noise), strict=True):
        seen[t] = (x.clone(), state.x0.clone())
        x = state.x
    return [*(seen[t] for t in MOMENTS), (x, x)]


def cell(images: Tensor) -> Tensor:
    """Put images (B, C, H, W) in [-1, 1] next to each other, separated by white: (height, width, 3) in [0, 1]."""
    enlarged = F.interpolate((images.clamp(-1, 1) + 1) / 2, scale_factor=8)
    padded = F.pad(enlarged, (0, 4), value=1.0)
    return torch.cat(list(padded), dim=2)[..., :-4].permute(1, 2, 0).expand(-1, -1, 3)


def main() -> None:
    """Draw a row of x_t and a row of x̂_0 for each sampler."""
    run, out = sys.argv[1:]
    model = diffexp.load(run, accelerator="cpu").model.eval()
    figure = plt.figure(figsize=(10, 3.9), facecolor="white")
    titles = [*(f"t = {t}" for t in MOMENTS), "image"]
    for (name, sampler, steps), bottom in zip(SAMPLERS, (0.5, 0.01), strict=True):
        grid = figure.add_gridspec(
            2, len(titles), left=0.14, right=0.995, bottom=bottom, top=bottom + 0.425, hspace=0.05, wspace=0.08
        )
        axes = grid.subplots()
        for column, shown in enumerate(moments(model, sampler, steps)):
            for panel, images in zip(axes[:, column], shown, strict=True):
                panel.imshow(cell(images))
                panel.set(xticks=[], yticks=[])
                panel.spines[:].set_visible(False)
            if sampler is SAMPLERS[0][1]:
                axes[0, column].set_title(titles[column], fontsize=11)
        for panel, symbol in zip(axes[:, 0], ("$x_t$", r"$\hat{x}_0$"), strict=True):
            panel.set_ylabel(symbol, rotation=0, ha="right", va="center", fontsize=13)
        figure.text(0.005, bottom + 0.21, f"{name}\n{steps} steps", fontsize=11, va="center")
    figure.savefig(out, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
