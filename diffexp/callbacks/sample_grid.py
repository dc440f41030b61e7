"""Grids of samples while training: several samplers side by side, from the same starting noise."""

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import lightning as L
import torch
from PIL import Image
from torch import Tensor

from diffexp.callbacks.ema import EMA
from diffexp.callbacks.periodic import Periodic, StoppedError
from diffexp.callbacks.progress import calls_bar
from diffexp.config.schemas.experiment import Experiment
from diffexp.data.datamodule import ImageDataModule
from diffexp.data.grids import beside, grid, save_png
from diffexp.loggers.build import log_images
from diffexp.models.base import GenerativeModel, as_pixels
from diffexp.runs.directory import Run
from diffexp.system.best_effort import BestEffort
from diffexp.system.devices import out_of_memory_explained
from diffexp.system.files import require_folder

_REAL_IMAGES = 8  # in the row above each grid


@dataclass(frozen=True)
class GridCost:
    """What one sampler's last grid cost."""

    network_calls: int
    images: int
    seconds: float


class SampleGrid(Periodic):
    """Every so many steps, and at the end, draws a grid of images with each of the named samplers.

    All samplers start from the same noise: image i from (seed, i). The network runs in the precision of
    the training. The grids are written as
    ``step-00001000-NAME.png``, with a row of real images above, and beside each other as
    ``step-00001000.png``; both go to the loggers under fixed keys.

    Args:
        folder: where the pictures go, in one that exists.
        samplers: named samplers of the model's `sample` (for diffusion: sampler configs).
        every: steps between two grids.
        count: images in a grid.
        seed: of the starting noise.
        ema: the callback whose averaged weights to use; None uses the raw ones.
        real: uint8 (M, C, H, W), for the first row.
        should_stop: asked after every network call whether to leave the grid undrawn, because the run is to stop.

    Attributes:
        drawn: by name, what the last grid cost.
    """

    def __init__(
        self,
        folder: str | Path,
        samplers: Mapping[str, Any],
        every: int,
        count: int = 64,
        seed: int = 0,
        ema: EMA | None = None,
        real: Tensor | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(every, should_stop)
        self.folder = Path(folder)
        self.samplers = samplers
        self.count = count
        self.seed = seed
        self.ema = ema
        self.real = real
        self.drawn: dict[str, GridCost] = {}
        self._writing = BestEffort(f"sample grids cannot be written to {folder}")
        self._logging = BestEffort("sample grids cannot be logged", Exception)

    @classmethod
    def from_config(
        cls, experiment: Experiment, run: Run, data: ImageDataModule, ema: EMA | None, should_stop: Callable[[], bool]
    ) -> Self | None:
        """The grids that a config asks for, below a row of training images from all over the set; or None."""
        wanted = experiment.sample_grid
        if wanted is None:
            return None
        images = data.images("train")
        count = min(_REAL_IMAGES, len(images))
        return cls(
            run.samples,
            {name: sampler for name, sampler in wanted.samplers.items() if sampler is not None},
            wanted.every,
            wanted.count,
            wanted.seed,
            ema if wanted.weights == "ema" else None,
            images.fetch(torch.arange(count) * len(images) // count),
            should_stop,
        )

    def picture(self, step: int) -> Path:
        """The file with all grids of a step beside each other."""
        return self.folder / f"step-{step:08d}.png"

    def finished(self, step: int) -> bool:
        """Whether the grids of a step are there."""
        return self.picture(step).is_file()

    def act(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw and save one grid with each sampler. Every process must call it; each draws its share."""
        assert isinstance(pl_module, GenerativeModel)
        pictures: dict[str, Image.Image] = {}
        try:
            weights = self.ema.applied(pl_module) if self.ema is not None else nullcontext()
            with weights, trainer.precision_plugin.forward_context():
                for name, sampler in self.samplers.items():
                    images = self._sample(trainer, pl_module, name, sampler)
                    pictures[name] = grid(images, self.real)
        except StoppedError:
            return
        if trainer.is_global_zero:
            self._publish(trainer, pictures)

    def _sample(self, trainer: L.Trainer, model: GenerativeModel, name: str, sampler: Any) -> Tensor:
        """uint8 (count, C, H, W), the same on every process."""
        world, rank = trainer.world_size, trainer.global_rank
        share = -(-self.count // world)
        mine = range(rank * share, (rank + 1) * share)  # the last process may draw a few more than are wanted
        calls = model.network_calls(sampler)
        start = time.perf_counter()
        with (
            out_of_memory_explained("sample_grid.count", share, "Set a smaller sample_grid.count."),
            calls_bar(f"sample {name}", calls, disable=rank > 0) as bar,
        ):
            images = as_pixels(model.sample(sampler, mine, self.seed, on_call=self.watch(trainer, bar.update)))
        if world > 1:
            gathered = trainer.strategy.all_gather(images)
            assert isinstance(gathered, Tensor)
            images = gathered.flatten(0, 1)[: self.count]
        self.drawn[name] = GridCost(calls, self.count, time.perf_counter() - start)
        return images.cpu()

    def _publish(self, trainer: L.Trainer, pictures: dict[str, Image.Image]) -> None:
        step = trainer.global_step
        for name, picture in pictures.items():
            with self._logging:
                log_images(trainer.loggers, {f"samples/{name}": picture}, step)
        with self._writing:
            require_folder(self.folder.parent)
            for name, picture in pictures.items():
                save_png(picture, self.folder / f"step-{step:08d}-{name}.png")
            save_png(beside(pictures), self.picture(step))  # last: this file says that the grids are there
