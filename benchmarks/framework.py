"""Measure what the Trainer and all default callbacks add to a step, compared with a bare loop.

    python benchmarks/framework.py [--size digits|fashion_mnist] [--batch-size B] [--rounds 30] [--steps 10]

The Trainer is that of `diffexp train` (`diffexp.commands.train.train_run`). The bare loop makes the same computation on
a second model: batches by plain indexing, the loss, clipping, fused AdamW, the average. The two take turns in one
process, --steps of each at a time. Everything that acts in every step is measured. Grids, scores and checkpoints, which
a bare loop does not have, act only once, at the end.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
import train_step
from measuring import arguments, quotients, report, spread, synchronize
from networks import SIZES

from diffexp.commands.locate import start_run
from diffexp.commands.train import train_run
from diffexp.config.load import load_experiment
from diffexp.system.devices import precision_for


class TakeTurns(L.Callback):
    """Run as many steps of the bare loop after every few of the Trainer, and time each block."""

    def __init__(self, steps: int, make_bare: Callable[[torch.device], Callable[[], object]]) -> None:
        self.steps = steps
        self.trainer_seconds: list[float] = []
        self.bare_seconds: list[float] = []
        self._make_bare = make_bare

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prepare and warm up the bare loop."""
        self._device = pl_module.device
        self._bare = self._make_bare(self._device)
        for _ in range(3):
            self._bare()
        self._mark()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Run a block of the bare loop after a block of the Trainer; this callback is the last."""
        if trainer.global_step % self.steps:
            return
        self.trainer_seconds.append(self._mark())
        for _ in range(self.steps):
            self._bare()
        self.bare_seconds.append(self._mark())

    def _mark(self) -> float:
        """Return the seconds since the last mark."""
        synchronize(self._device)
        before, self._since = getattr(self, "_since", 0.0), time.perf_counter()
        return self._since - before


def main() -> None:
    """Measure all candidates, print the table and write the results."""
    parser = arguments(__doc__, rounds=30)
    parser.add_argument("--size", choices=["digits", "fashion_mnist"], default="digits")
    parser.add_argument("--batch-size", type=int, help="images per step; default: the size's own")
    parser.add_argument("--steps", type=int, default=10, help="steps of each per turn")
    given = parser.parse_args()
    size, device = SIZES[given.size], torch.device(given.device)
    given.batch_size = given.batch_size or size.batch_size
    side = size.image_shape[1]
    images = torch.randint(256, (10_000, *size.image_shape), dtype=torch.uint8)

    def bare(on: torch.device) -> Callable[[], object]:
        _, step = train_step.ours(size, on, precision)
        source = torch.Generator().manual_seed(0)

        def one() -> None:
            chosen = images[torch.randint(len(images), (given.batch_size,), generator=source)]
            step(chosen.to(on).float() / 127.5 - 1)

        return one

    precision = precision_for("auto", device)
    turns = TakeTurns(given.steps, bare)
    with tempfile.TemporaryDirectory() as folder:
        experiment = load_experiment(
            given.size,
            [
                f"model.network={size.config()}",
                f"training.max_steps={given.rounds * given.steps}",
                f"training.batch_size={given.batch_size}",
                f"training.accelerator={'gpu' if device.type == 'cuda' else 'cpu'}",
                f"sample_grid.every={10**9}",
                "sample_grid.samplers={'ddpm': None, 'ddim-50': {'name': 'ddim', 'steps': 1}}",
                "score=null",
                "validation=null",
                f"checkpoint.every={10**9}",
                f"run_dir={folder}/run",
            ],
        )
        train_run(experiment, start_run(experiment), [], [turns])
    ours, loop = (
        [1000 * each / given.steps for each in seconds[1:]] for seconds in (turns.trainer_seconds, turns.bare_seconds)
    )
    added = [one - other for one, other in zip(ours, loop, strict=True)]
    rows = [
        [
            f"{given.size}, {side}×{side}, batch {given.batch_size}",
            f"{statistics.median(loop):.1f}",
            f"{statistics.median(ours):.1f}",
            spread(added),
            f"{statistics.median(quotients(ours, loop)) - 1:+.1%}",
        ]
    ]
    columns = ["model", "bare loop, ms a step", "Trainer with callbacks", "added, ms", "added"]
    report(given, f"framework-{given.size}-{given.batch_size}", columns, rows, trainer=ours, bare=loop)


if __name__ == "__main__":
    main()
