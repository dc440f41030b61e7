"""Compare the Trainer with all default callbacks with a bare loop, on the CIFAR-10 network and random images."""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import train_step
from framework import TakeTurns
from measuring import quotients, report, spread
from networks import SIZES
from PIL import Image

from diffexp.commands.locate import start_run
from diffexp.commands.train import train_run
from diffexp.config.load import load_experiment
from diffexp.system.devices import precision_for

IMAGES = 512


def write_images(folder: Path, side: int) -> None:
    """Write random images as PNG files."""
    folder.mkdir()
    pixels = torch.randint(256, (IMAGES, side, side, 3), dtype=torch.uint8).numpy()
    for number, each in enumerate(pixels):
        Image.fromarray(each).save(folder / f"{number:04d}.png", compress_level=0)


def main(given: argparse.Namespace, batch_size: int, steps: int) -> None:
    """Measure both, print the table and write the results.

    Args:
        given: options: device, out, rounds and size.
        batch_size: images per step.
        steps: steps of each per turn.
    """
    size, device = SIZES[given.size], torch.device(given.device)
    precision = precision_for("auto", device)
    channels, side, _ = size.image_shape
    resident = torch.randint(256, (IMAGES, *size.image_shape), dtype=torch.uint8, device=device)

    def bare(on: torch.device) -> Callable[[], object]:
        _, step = train_step.ours(size, on, precision)

        def one() -> None:
            chosen = torch.randint(IMAGES, (batch_size,), device=on)
            step(resident[chosen].float().div_(127.5).sub_(1))

        return one

    turns = TakeTurns(steps, bare)
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder, "images"), side)
        experiment = load_experiment(
            "image_folder",
            [
                *(f"data.path={folder}/images", f"data.image_size={side}", f"data.channels={channels}"),
                *("data.random_flip=false", f"model.network={size.config()}"),
                *(f"training.max_steps={(given.rounds + 1) * steps}", f"training.batch_size={batch_size}"),
                f"training.accelerator={'gpu' if device.type == 'cuda' else 'cpu'}",
                *(f"sample_grid.every={10**9}", f"checkpoint.every={10**9}", f"run_dir={folder}/run"),
                "sample_grid.samplers={'ddpm': None, 'ddim-50': {'name': 'ddim', 'steps': 1}}",
            ],
        )
        train_run(experiment, start_run(experiment), [], [turns])
    ours, loop = (
        [1000 * each / steps for each in seconds[1:]] for seconds in (turns.trainer_seconds, turns.bare_seconds)
    )
    added = statistics.median(quotients(ours, loop)) - 1
    row = [
        f"{given.size}, batch {batch_size}",
        f"{statistics.median(loop):.2f}",
        f"{statistics.median(ours):.2f}",
        spread([one - other for one, other in zip(ours, loop, strict=True)]),
        f"{added:+.1%}",
    ]
    columns = ["model", "bare loop, ms a step", "Trainer with callbacks", "added, ms", "added"]
    report(given, f"framework-{given.size}-{batch_size}", columns, [row], trainer=ours, bare=loop, added=added)
