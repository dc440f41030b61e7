"""`diffexp.load`: load a trained model in Python."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from diffexp.checkpoints.load import build_trained, load_trained
from diffexp.commands.sample import draw
from diffexp.config.load import load_sample_request
from diffexp.config.plugins import load_plugins
from diffexp.config.schemas.common import Weights
from diffexp.config.schemas.experiment import Experiment
from diffexp.errors import UserError
from diffexp.models.base import GenerativeModel


@dataclass(frozen=True)
class LoadedModel:
    """A trained model, ready to sample.

    Attributes:
        path: the checkpoint or exported file.
        step: optimiser steps done.
        experiment: the config of the training.
        model: the LightningModule with the chosen weights, on its device.
    """

    path: Path
    step: int
    experiment: Experiment
    model: GenerativeModel

    def sample(
        self, sampler: str | None = None, *, steps: int | None = None, count: int = 16, seed: int = 0, **keys: Any
    ) -> Tensor:
        """Sample images.

        Args:
            sampler: for a diffusion model "ddpm", "ddim", "dpmpp", "unipc" or "heun"; None for the model's default.
            steps: the number of steps; None for the sampler's default.
            count: the number of images.
            seed: the seed; image i depends on (seed, i) and the weights alone.
            keys: further keys of the sampler (eta=0.5), or with the prefix `request_` of the request
                (`request_batch_size=64`).

        Returns:
            The images, uint8, shape (count, C, H, W), values 0 to 255.

        Raises:
            ValueError: for an unknown key or an invalid value.
        """
        given: dict[str, Any] = {"count": count, "seed": seed}
        given |= {"sampler.name": sampler} if sampler is not None else {}
        given |= {"sampler.steps": steps} if steps is not None else {}
        for key, value in keys.items():
            own = key.removeprefix("request_")
            given[own if own != key else f"sampler.{key}"] = value
        try:
            request = load_sample_request([f"{key}={_text(value)}" for key, value in given.items()], self.experiment)
            return draw(self.model, request)
        except UserError as error:
            raise ValueError(str(error).replace("command line: ", "")) from None


def load(
    run: str | Path, *, weights: str = "ema", accelerator: str = "auto", plugins: Sequence[str] = ()
) -> LoadedModel:
    """Load a trained model.

    Args:
        run: a run directory (its latest checkpoint), a checkpoint, or an exported file.
        weights: "ema" for the averaged weights, "raw" for the raw ones.
        accelerator: "auto", "cpu" or "gpu".
        plugins: names of modules to import first.

    Raises:
        ValueError: for other `weights`, or a string as `plugins`.
        UserError: if there is no such model, or its file lacks the weights.
    """
    if weights not in get_args(Weights):
        raise ValueError(f"weights: expected one of {', '.join(get_args(Weights))}, got {weights!r}")
    if isinstance(plugins, str):
        raise ValueError(f"plugins: expected a list of modules, got {plugins!r}")
    load_plugins(plugins)
    trained = load_trained(Path(run))
    model = build_trained(trained, weights, accelerator)
    return LoadedModel(trained.path, trained.step, trained.experiment, model)


def _text(value: Any) -> str:
    """Return a value in the syntax of an override."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
