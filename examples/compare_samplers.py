"""Draw the same images with several samplers from one trained run, a row of the picture for each sampler."""

import argparse
import time

import torch
from PIL import Image

import diffexp

SAMPLERS = {
    "DDPM, 100 steps": {"sampler": "ddpm", "steps": 100},
    "DDIM, 20 steps": {"sampler": "ddim", "steps": 20},
    "DPM-Solver++ 2M, 10 steps": {"sampler": "dpmpp", "steps": 10},
}


def main() -> None:
    """Sample, print the time of each sampler, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="a run directory or checkpoint")
    parser.add_argument("--count", type=int, default=8, help="images per sampler")
    parser.add_argument("--out", default="samplers.png", help="the picture")
    arguments = parser.parse_args()

    model = diffexp.load(arguments.run)
    rows = []
    for label, keys in SAMPLERS.items():
        start = time.perf_counter()
        # image i depends on (seed, i): each column starts from the same noise
        images = model.sample(**keys, count=arguments.count, seed=0)
        rows.append(torch.cat(list(images), dim=-1))  # (C, H, W) each, side by side
        print(f"{label}: {time.perf_counter() - start:.2f} s")
    picture = torch.cat(rows, dim=-2).permute(1, 2, 0).squeeze(-1)
    Image.fromarray(picture.numpy()).save(arguments.out)


if __name__ == "__main__":
    main()
