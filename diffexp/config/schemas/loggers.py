"""Schemas of the loggers, chosen by ``loggers: [csv, wandb]``."""

from dataclasses import dataclass
from typing import ClassVar

from diffexp.config.registry import Component, Registry


@dataclass
class LoggerConfig(Component):
    """A logger. Its builder gets a `diffexp.loggers.base.LoggedRun` and returns a `RunLogger`.

    Attributes:
        is_tracker: whether it compares runs, so that `diffexp evaluate` logs its tables to it as separate runs.
    """

    is_tracker: ClassVar[bool] = True


LOGGERS = Registry("logger", LoggerConfig, "diffexp.loggers.{name}:{schema}")


@LOGGERS.register("csv")
@dataclass
class CSVLoggerConfig(LoggerConfig):
    """Write metrics.csv in the run's directory."""

    name: str = "csv"
    is_tracker: ClassVar[bool] = False


@LOGGERS.register("tensorboard")
@dataclass
class TensorBoardLoggerConfig(LoggerConfig):
    """Write TensorBoard events to tensorboard/ in the run's directory."""

    name: str = "tensorboard"
    is_tracker: ClassVar[bool] = False
    extra: ClassVar[str | None] = "tensorboard"
    packages: ClassVar[tuple[str, ...]] = ("tensorboard",)


@LOGGERS.register("wandb")
@dataclass
class WandbLoggerConfig(LoggerConfig):
    """Log to a W&B run."""

    name: str = "wandb"


@LOGGERS.register("trackio")
@dataclass
class TrackioLoggerConfig(LoggerConfig):
    """Log to a run in a trackio project."""

    name: str = "trackio"
    extra: ClassVar[str | None] = "trackio"
    packages: ClassVar[tuple[str, ...]] = ("trackio",)


@LOGGERS.register("mlflow")
@dataclass
class MLflowLoggerConfig(LoggerConfig):
    """Log to a run in an MLflow experiment."""

    name: str = "mlflow"
    extra: ClassVar[str | None] = "mlflow"
    packages: ClassVar[tuple[str, ...]] = ("mlflow",)
