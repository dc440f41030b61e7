"""The TensorBoard logger."""

from collections.abc import Mapping

import tensorboard  # noqa: F401  # Lightning names no extra of ours if it is missing
from lightning.pytorch import loggers as lightning
from PIL import Image

from diffexp.data.grids import tensor_of
from diffexp.loggers.base import LoggedRun, RunLogger


class TensorBoardLogger(RunLogger):
    """Event files in the folder tensorboard/ of the run's directory."""

    def __init__(self, run: LoggedRun) -> None:
        self.writer = lightning.TensorBoardLogger(
            run.folder, name="", version="tensorboard", purge_step=run.resume_step + 1
        )

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics."""
        self.writer.log_metrics(dict(values), step)

    def log_images(self, images: Mapping[str, Image.Image], step: int) -> None:
        """Log RGB images by name."""
        for name, picture in images.items():
            self.writer.experiment.add_image(name, tensor_of(picture), step)

    def save(self) -> None:
        """Flush the event file."""
        self.writer.save()

    def finish(self, exit_code: int) -> None:
        """Close the event file."""
        self.writer.finalize("success" if exit_code == 0 else "failed")
