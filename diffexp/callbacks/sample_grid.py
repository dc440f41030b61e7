"""Save grids of samples during training, with several samplers from the same noise."""

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
from diffexp.config.schemas.experiment import Experiment
from diffexp.config.schemas.samplers import check_class_names
from diffexp.data.datamodule import ImageDataModule
from diffexp.data.grids import beside, grid, save_png
from diffexp.loggers.build import log_images
from diffexp.models.base import GenerativeModel, as_pixels
from diffexp.runs.directory import Run
from diffexp.system.best_effort import BestEffort
from diffexp.system.devices import out_of_memory_explained
from diffexp.system.files import require_folder
from diffexp.system.terminal import progress_bar

_REAL_IMAGES = 8  # in the first row of each grid


@dataclass(frozen=True)
class GridCost:
    """The cost of one sampler's last grid.

    Attributes:
        network_calls: calls for one batch.
        images: number of images.
        seconds: wall-clock time.
    """

    network_calls: int
    images: int
    seconds: float


class SampleGrid(Periodic):
    """Draws a grid of images with each of the named samplers, every `every` steps and at the end.

    All samplers start from the same noise: image i from (seed, i). The network runs in the precision of training. Each
    grid is saved as ``step-00001000-NAME.png`` with a row of real images at the top, and all grids side by side as
    ``step-00001000.png``. Loggers receive the grids under fixed keys.

    Args:
        folder: an existing folder for the pictures.
        samplers: named sampler configs of the model.
        every: optimiser steps between two grids.
        count: images in a grid.
        seed: seed of the noise.
        ema: the callback whose averaged weights are used; None uses the raw ones.
        real: uint8 (M, C, H, W), for the first row, or None.
        should_stop: called after every network call; True interrupts the grid, because the run is stopping.

    Attributes:
        drawn: the cost of the last grid, by name of the sampler.
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
        """Build the callback of a config, with evenly spaced training images in the first row; or return None.

        Raises:
            UserError: if a sampler names an unknown class.
        """
        wanted = experiment.sample_grid
        if wanted is None:
            return None
        images = data.images("train")
        check_class_names(wanted.samplers, "sample_grid.samplers", images.class_names)
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
        """Return the file with all grids of a step side by side."""
        return self.folder / f"step-{step:08d}.png"

    def finished(self, step: int) -> bool:
        """Return whether the grids of a step exist."""
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
        """Return uint8 (count, C, H, W), the same on every process."""
        world, rank = trainer.world_size, trainer.global_rank
        share = -(-self.count // world)
        mine = range(rank * share, (rank + 1) * share)  # the last process may draw a few surplus images
        calls = model.network_calls(sampler)
        start = time.perf_counter()
        with (
            out_of_memory_explained("sample_grid.count", share, "Set a smaller sample_grid.count."),
            progress_bar(f"sample {name}", calls, "call", leave=False, delay=1, disable=rank > 0) as bar,
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
            save_png(beside(pictures), self.picture(step))  # last, because this file marks the grids as complete
