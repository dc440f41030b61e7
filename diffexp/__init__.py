"""diffexp: run experiments with diffusion models from one config.

The names below are the public API. Each is imported on first use, so that `import diffexp` is fast.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from diffexp.callbacks.best_checkpoint import BestCheckpoint
    from diffexp.callbacks.checkpoint import StepCheckpoint
    from diffexp.callbacks.ema import EMA
    from diffexp.callbacks.gradient_variance import GradientVariance
    from diffexp.callbacks.progress import StepProgress
    from diffexp.callbacks.sample_grid import SampleGrid
    from diffexp.callbacks.score import ScoreSamples
    from diffexp.callbacks.status import StatusFile
    from diffexp.callbacks.stop_on_signal import StopOnSignal
    from diffexp.callbacks.validation import Validation
    from diffexp.callbacks.validation_images import ValidationImages
    from diffexp.commands.load import LoadedModel, load
    from diffexp.commands.train import Outcome, train
    from diffexp.config.load import load_experiment
    from diffexp.config.schemas.experiment import OptimConfig
    from diffexp.data.datamodule import ImageDataModule
    from diffexp.data.images import MemoryImages
    from diffexp.diffusion.paths import timestep_path
    from diffexp.diffusion.predictions import Prediction, clipped
    from diffexp.diffusion.samplers.ddim import DDIM
    from diffexp.diffusion.samplers.ddpm import DDPM
    from diffexp.diffusion.samplers.dpmpp import DPMSolver
    from diffexp.diffusion.samplers.heun import Heun
    from diffexp.diffusion.samplers.unipc import UniPC
    from diffexp.diffusion.schedules import Schedule, cosine, linear, proportional, scaled_linear, sigmoid
    from diffexp.errors import EnvironmentFailure, UserError
    from diffexp.evaluation.metrics.base import Estimate, Metric
    from diffexp.evaluation.metrics.frechet import FrechetDistance
    from diffexp.evaluation.metrics.inception_score import InceptionScore
    from diffexp.evaluation.metrics.kernel import KernelDistance
    from diffexp.evaluation.metrics.nearest import MemorizedFraction, NearestDistanceRatio
    from diffexp.evaluation.metrics.precision_recall import Precision, Recall
    from diffexp.loggers.base import RunLogger
    from diffexp.models.diffusion import DiffusionModule
    from diffexp.models.training_module import TrainingModule

# The public names and the modules that define them.
_PUBLIC = {
    **dict.fromkeys(("load", "LoadedModel"), "diffexp.commands.load"),
    **dict.fromkeys(("train", "Outcome"), "diffexp.commands.train"),
    "load_experiment": "diffexp.config.load",
    "Schedule": "diffexp.diffusion.schedules",
    **dict.fromkeys(("linear", "scaled_linear", "cosine", "sigmoid", "proportional"), "diffexp.diffusion.schedules"),
    "timestep_path": "diffexp.diffusion.paths",
    **dict.fromkeys(("Prediction", "clipped"), "diffexp.diffusion.predictions"),
    "DDPM": "diffexp.diffusion.samplers.ddpm",
    "DDIM": "diffexp.diffusion.samplers.ddim",
    "DPMSolver": "diffexp.diffusion.samplers.dpmpp",
    "UniPC": "diffexp.diffusion.samplers.unipc",
    "Heun": "diffexp.diffusion.samplers.heun",
    "DiffusionModule": "diffexp.models.diffusion",
    "TrainingModule": "diffexp.models.training_module",
    "RunLogger": "diffexp.loggers.base",
    "OptimConfig": "diffexp.config.schemas.experiment",
    "ImageDataModule": "diffexp.data.datamodule",
    "MemoryImages": "diffexp.data.images",
    "BestCheckpoint": "diffexp.callbacks.best_checkpoint",
    "EMA": "diffexp.callbacks.ema",
    "SampleGrid": "diffexp.callbacks.sample_grid",
    "ScoreSamples": "diffexp.callbacks.score",
    "StepCheckpoint": "diffexp.callbacks.checkpoint",
    "StepProgress": "diffexp.callbacks.progress",
    "StatusFile": "diffexp.callbacks.status",
    "StopOnSignal": "diffexp.callbacks.stop_on_signal",
    "GradientVariance": "diffexp.callbacks.gradient_variance",
    "Validation": "diffexp.callbacks.validation",
    "ValidationImages": "diffexp.callbacks.validation_images",
    **dict.fromkeys(("Metric", "Estimate"), "diffexp.evaluation.metrics.base"),
    "FrechetDistance": "diffexp.evaluation.metrics.frechet",
    "KernelDistance": "diffexp.evaluation.metrics.kernel",
    **dict.fromkeys(("Precision", "Recall"), "diffexp.evaluation.metrics.precision_recall"),
    "InceptionScore": "diffexp.evaluation.metrics.inception_score",
    **dict.fromkeys(("NearestDistanceRatio", "MemorizedFraction"), "diffexp.evaluation.metrics.nearest"),
    **dict.fromkeys(("UserError", "EnvironmentFailure"), "diffexp.errors"),
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'diffexp' has no attribute {name!r}")
    if not _PUBLIC[name].endswith(".errors"):
        importlib.import_module("diffexp.errors").require_posix()
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
