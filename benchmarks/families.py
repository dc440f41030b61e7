"""Measure what a training step of each family costs, and how many steps fit into a time budget.

    python benchmarks/families.py [--data digits|fashion_mnist] [--seconds 100] [--steps 30]

Each config configs/families/DATA_*.yaml trains for a few steps in its own Trainer, as `diffexp train` does. The table
shows the median time of a step, its FLOP (forward and backward, by torch's FlopCounterMode), the steps that fit into
--seconds, and the cost of the config's own steps. A latent diffusion gets an untrained autoencoder: its steps cost the
same.
"""

import argparse
import logging
import statistics
import time
import warnings
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
from measuring import flop_counter

from diffexp.config.load import load_experiment
from diffexp.data.datamodule import ImageDataModule
from diffexp.models.build import build_model
from diffexp.system.devices import device_for, precision_for

CONFIGS = Path(__file__).parent.parent / "configs" / "families"


class Nowhere(nullcontext[None]):
    """Replace FlopCounterMode's module tracker, whose hooks fail on the second derivatives of R1."""

    parents = frozenset({"Global"})


class Watch(L.Callback):
    """Record when each step ends, and count the FLOP of the first."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.counter = flop_counter()
        self.counter.mod_tracker = Nowhere()
        self.flops = 0

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Start to count."""
        if trainer.global_step == 0:
            self.counter.__enter__()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Record the time."""
        if trainer.global_step == 1:
            self.counter.__exit__(None, None, None)
            self.flops = self.counter.get_total_flops()
        self.times.append(time.perf_counter())


def measure(config: Path, steps: int) -> tuple[float, float]:
    """Return the median seconds and the FLOP of a step."""
    overrides = ["model.autoencoder=none"] if "latent_diffusion" in config.stem else []
    experiment = load_experiment(str(config), [*overrides, f"training.max_steps={steps}"])
    settings = experiment.training
    watch = Watch()
    trainer = L.Trainer(
        max_steps=steps,
        max_epochs=-1,
        precision=precision_for(settings.precision, device_for(settings.accelerator)),
        gradient_clip_val=settings.gradient_clip_val,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch],
        use_distributed_sampler=False,
    )
    data = ImageDataModule.from_config(experiment.data, settings.batch_size, experiment.seed)
    trainer.fit(build_model(experiment), datamodule=data)
    later = watch.times[3:]
    return statistics.median(b - a for a, b in pairwise(later)), watch.flops


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits or fashion_mnist")
    parser.add_argument("--seconds", type=float, default=100, help="time budget")
    parser.add_argument("--steps", type=int, default=30, help="measured steps per config")
    wanted = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    print(f"| config | ms a step | GFLOP a step | steps in {wanted.seconds:g} s | its steps | seconds | TFLOP |")
    print("|---|---|---|---|---|---|---|")
    for config in sorted(CONFIGS.glob(f"{wanted.data}_*.yaml")):
        seconds, flops = measure(config, wanted.steps)
        overrides = ["model.autoencoder=none"] if "latent_diffusion" in config.stem else []
        own = load_experiment(str(config), overrides).training.max_steps
        print(
            f"| {config.stem} | {1000 * seconds:.1f} | {flops / 1e9:.2f} | {wanted.seconds / seconds:.0f} "
            f"| {own} | {own * seconds:.0f} | {own * flops / 1e12:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
