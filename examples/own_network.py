"""Train a network of your own with your own Lightning Trainer, then sample it with DDIM."""

import argparse

import lightning
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from diffexp import DDIM, EMA, DiffusionModule, OptimConfig, Prediction, Schedule, clipped, cosine, timestep_path


class Network(nn.Module):
    """A small convolutional network: images (B, 1, 8, 8) and timesteps (B,) to a prediction of the images' shape."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.time = nn.Embedding(1001, width)
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(4))
        self.last = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        hidden = self.first(x) + self.time(t)[:, :, None, None]
        for block in self.blocks:
            hidden = hidden + block(nn.functional.silu(hidden))
        return self.last(hidden)


def main() -> None:
    """Train and print the statistics of 16 samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-steps", type=int, default=1000, help="optimiser steps of 64 images")
    arguments = parser.parse_args()
    lightning.seed_everything(0, verbose=False)

    digits = load_digits()
    images = torch.tensor(digits.images / 8 - 1, dtype=torch.float32).unsqueeze(1)  # [0, 16] to [-1, 1]
    batches = DataLoader(TensorDataset(images, torch.tensor(digits.target)), batch_size=64, shuffle=True)

    schedule = Schedule(cosine(1000))
    module = DiffusionModule((1, 8, 8), Network(), schedule, "v")
    module.optim = OptimConfig(lr=1e-3)
    callbacks = [EMA(half_life=10_000, batch_size=64)]
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    lightning.Trainer(max_steps=arguments.max_steps, callbacks=callbacks, **options).fit(module, batches)

    network = module.network.eval()
    denoiser = clipped(Prediction("v", schedule).denoiser(network), schedule)
    path = timestep_path(schedule.timesteps, 20, "trailing", schedule.alphas_cumprod.tolist())
    source = torch.Generator().manual_seed(0)
    noise = lambda: torch.randn(16, 1, 8, 8, generator=source)  # noqa: E731
    with torch.no_grad():
        *_, last = DDIM(eta=0.0).trajectory(denoiser, schedule, path, noise(), noise)
    print(f"data    mean {images.mean():+.2f}, std {images.std():.2f}")
    print(f"samples mean {last.x.mean():+.2f}, std {last.x.std():.2f}")


if __name__ == "__main__":
    main()
