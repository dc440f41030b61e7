"""A trained model for Python: `diffexp.load`."""

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
        path: of its file.
        step: optimiser steps done.
        experiment: what was trained.
        model: with the wanted weights, on its device; a LightningModule.
    """

    path: Path
    step: int
    experiment: Experiment
    model: GenerativeModel

    def sample(
        self, sampler: str | None = None, *, steps: int | None = None, count: int = 16, seed: int = 0, **keys: Any
    ) -> Tensor:
        """Draw images.

        Args:
            sampler: "ddpm", "ddim", "dpmpp", "unipc" or "heun", for a diffusion model; None is the model's default.
            steps: number of sampling steps; None is the sampler's default.
            count: number of images.
            seed: image i depends only on (seed, i) and the weights.
            keys: further keys of the sampler (eta=0.5), or of the request with the prefix `request_`
                (request_batch_size=64).

        Returns:
            Pixels, uint8 (count, C, H, W).

        Raises:
            ValueError: for an unknown key, or a value that the model cannot be sampled with.
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
        run: a run's directory, of which the latest checkpoint is taken, a checkpoint, or an exported file.
        weights: "ema" for the averaged, "raw" for the raw ones.
        accelerator: "auto", "cpu" or "gpu".
        plugins: names of modules to import first.

    Raises:
        ValueError: for another `weights`, or a single text as `plugins`.
        UserError: if there is no such model, or its weights were not kept.
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
    """A value as an override has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
