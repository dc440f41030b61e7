"""Grids of samples while training: several samplers side by side, from the same starting noise."""

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from PIL import Image
from torch import Tensor

from diffexp.callbacks.ema import EMA
from diffexp.callbacks.grids import beside, grid, save_png, tensor_of
from diffexp.callbacks.periodic import GivenUpError, Periodic
from diffexp.callbacks.progress import calls_bar
from diffexp.files import see_folder
from diffexp.hardware import out_of_memory_explained
from diffexp.models.base import GenerativeModel, as_pixels
from diffexp.tolerance import Tolerance


@dataclass(frozen=True)
class Drawn:
    """What one sampler's last grid cost."""

    network_calls: int
    images: int
    seconds: float


class SampleGrid(Periodic):
    """Every so many steps, and at the end, draws a grid of images with each of the named samplers.

    All samplers start from the same noise: image i from (seed, i). The network runs in the precision of
    the training. The grids are written as
    ``step-00001000-NAME.png``, with a row of real images above, and beside each other as
    ``step-00001000.png``; both go to the W&B and TensorBoard loggers under fixed keys.

    Args:
        folder: where the pictures go, in one that exists.
        variants: named variants of the model's `sample` (for diffusion: sampler configs).
        every: steps between two grids.
        count: images in a grid.
        seed: of the starting noise.
        ema: the callback whose averaged weights to use; None uses the raw ones.
        real: uint8 (M, C, H, W), for the first row.
        give_up: asked after every network call whether to leave the grid undrawn, because the run is to stop.

    Attributes:
        drawn: by name, what the last grid cost.
    """

    def __init__(
        self,
        folder: Path,
        variants: Mapping[str, Any],
        every: int,
        count: int = 64,
        seed: int = 0,
        ema: EMA | None = None,
        real: Tensor | None = None,
        give_up: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(every, give_up)
        self.folder = folder
        self.variants = variants
        self.count = count
        self.seed = seed
        self.ema = ema
        self.real = real
        self.drawn: dict[str, Drawn] = {}
        self._writing = Tolerance(f"sample grids cannot be written to {folder}")
        self._mirroring = Tolerance("sample grids cannot be logged", Exception)

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
                for name, variant in self.variants.items():
                    images = self._sample(trainer, pl_module, name, variant)
                    pictures[name] = grid(images, self.real)
        except GivenUpError:
            return
        if trainer.is_global_zero:
            self._publish(trainer, pictures)

    def _sample(self, trainer: L.Trainer, model: GenerativeModel, name: str, variant: Any) -> Tensor:
        """uint8 (count, C, H, W), the same on every process."""
        world, rank = trainer.world_size, trainer.global_rank
        share = -(-self.count // world)
        mine = range(rank * share, (rank + 1) * share)  # the last process may draw a few more than are wanted
        calls = model.network_calls(variant)
        start = time.perf_counter()
        with (
            out_of_memory_explained("sample_grid.count", share, "Set a smaller sample_grid.count."),
            calls_bar(f"sample {name}", calls, disable=rank > 0) as bar,
        ):
            images = as_pixels(model.sample(variant, mine, self.seed, on_call=self.watch(trainer, bar.update)))
        if world > 1:
            gathered = trainer.strategy.all_gather(images)
            assert isinstance(gathered, Tensor)
            images = gathered.flatten(0, 1)[: self.count]
        self.drawn[name] = Drawn(calls, self.count, time.perf_counter() - start)
        return images.cpu()

    def _publish(self, trainer: L.Trainer, pictures: dict[str, Image.Image]) -> None:
        step = trainer.global_step
        for logger in trainer.loggers:
            for name, picture in pictures.items():
                with self._mirroring:
                    if isinstance(logger, WandbLogger):
                        logger.log_image(f"samples/{name}", [picture], step=step)
                    elif isinstance(logger, TensorBoardLogger):
                        logger.experiment.add_image(f"samples/{name}", tensor_of(picture), step)
        with self._writing:
            see_folder(self.folder.parent)
            for name, picture in pictures.items():
                save_png(picture, self.folder / f"step-{step:08d}-{name}.png")
            save_png(beside(pictures), self.picture(step))  # last: this file says that the grids are there
