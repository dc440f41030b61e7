"""A trained model, from a checkpoint or an exported file. Reading either executes nothing."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from diffexp.checkpoints.exported_file import EXPORTED, read_exported
from diffexp.checkpoints.file import averaged, latest_valid_checkpoint, read_checkpoint
from diffexp.checkpoints.paths import find_checkpoint
from diffexp.config.load import experiment_from_text
from diffexp.config.schemas.experiment import Experiment
from diffexp.errors import UserError
from diffexp.formatting import listed
from diffexp.models.base import GenerativeModel
from diffexp.models.build import build_model
from diffexp.runs.directory import Run
from diffexp.system.devices import device_for


@dataclass(frozen=True)
class TrainedModel:
    """What was trained, and its weights.

    Attributes:
        path: its file.
        step: optimiser steps done.
        experiment: what was trained.
        weights: the kinds that were kept, "raw" or "ema" or both; each the parameters and buffers by name.
    """

    path: Path
    step: int
    experiment: Experiment
    weights: dict[str, dict[str, Tensor]]

    @property
    def folder(self) -> Path:
        """The run's directory; of a file that is not in one, the folder of the file."""
        return self.path.parent.parent if self._is_in_run else self.path.parent

    @property
    def name(self) -> str:
        """The name of the run's directory, or of a file that is not in one."""
        return self.folder.name if self._is_in_run else self.path.stem

    @property
    def _is_in_run(self) -> bool:
        return self.path.parent == Run(self.path.parent.parent).checkpoints

    def chosen(self, kind: str) -> dict[str, Tensor]:
        """The weights of a kind, "raw" or "ema".

        Raises:
            UserError: if they were not kept, or hold NaN or infinity.
        """
        if kind not in self.weights:
            kinds = {"raw": "raw", "ema": "averaged"}
            raise UserError(f"{self.path}: holds no {kinds[kind]} weights; use weights={next(iter(self.weights))}")
        broken = [name for name, tensor in self.weights[kind].items() if not tensor.isfinite().all()]
        if broken:
            raise UserError(f"{self.path}: expected finite weights, got NaN or infinity in {listed(broken)}")
        return self.weights[kind]


def load_trained(path: Path) -> TrainedModel:
    """Read a checkpoint, the newest one of a run's directory, or an exported file.

    Raises:
        UserError: if there is none, it is damaged, or not one of ours.
    """
    file = find_checkpoint(path)
    if path.is_dir():
        newest = latest_valid_checkpoint(Run(path).checkpoints)
        file = newest[0] if newest is not None else file
    return _from_export(file) if file.suffix == EXPORTED else _from_checkpoint(file)


def build_trained(trained: TrainedModel, weights: str, accelerator: str) -> GenerativeModel:
    """The model with the wanted weights, on the wanted device.

    Raises:
        UserError: if the weights do not fit the network, those that are wanted were not kept, or there is no such
            device.
    """
    chosen = trained.chosen(weights)
    model = build_model(trained.experiment)
    try:
        model.load_state_dict(chosen)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{trained.path}: the weights do not fit the config in it: {error}") from error
    return model.to(device_for(accelerator)).eval()


def _from_checkpoint(path: Path) -> TrainedModel:
    content = read_checkpoint(path)
    experiment = experiment_from_text(content["config"], str(path))
    weights = {"raw": content["state_dict"]}
    try:
        average = averaged(content)
        if average is not None:
            weights["ema"] = {**content["state_dict"], **average}
        if not all(isinstance(each, Tensor) for kind in weights.values() for each in kind.values()):
            raise TypeError
        return TrainedModel(path, int(content["global_step"]), experiment, weights)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: holds weights of an unknown form") from error


def _from_export(path: Path) -> TrainedModel:
    exported = read_exported(path)
    experiment = experiment_from_text(exported.config, str(path))
    return TrainedModel(path, exported.step, experiment, {exported.kind: exported.weights})
