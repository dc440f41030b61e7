"""Load a trained model from a checkpoint or an exported file, without executing their content."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from diffexp.checkpoints.exported_file import read_exported
from diffexp.checkpoints.file import averaged, latest_valid_checkpoint, read_checkpoint
from diffexp.checkpoints.paths import EXPORTED, find_checkpoint
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
    """A trained model: its experiment and its weights.

    Attributes:
        path: file of the model.
        step: number of optimiser steps of the training.
        experiment: config of the training.
        weights: parameters and buffers by name, for each kind in the file: "raw", "ema" or both.
        class_names: names of the classes of the training images; None if there are none, or they are not recorded.
    """

    path: Path
    step: int
    experiment: Experiment
    weights: dict[str, dict[str, Tensor]]
    class_names: list[str] | None = None

    @property
    def folder(self) -> Path:
        """The run's directory, or for a file outside of a run, its folder."""
        return self.path.parent.parent if self._is_in_run else self.path.parent

    @property
    def name(self) -> str:
        """The name of the run's directory, or for a file outside of a run, of the file."""
        return self.folder.name if self._is_in_run else self.path.stem

    @property
    def _is_in_run(self) -> bool:
        return self.path.parent == Run(self.path.parent.parent).checkpoints

    def chosen(self, kind: str) -> dict[str, Tensor]:
        """Return the "raw" or the "ema" weights.

        Raises:
            UserError: if the file has none, or they contain NaN or infinity.
        """
        if kind not in self.weights:
            kinds = {"raw": "raw", "ema": "averaged"}
            raise UserError(
                f"{self.path}: expected {kinds[kind]} weights, got none. Use weights={next(iter(self.weights))}."
            )
        broken = [name for name, tensor in self.weights[kind].items() if not tensor.isfinite().all()]
        if broken:
            raise UserError(f"{self.path}: expected finite weights, got NaN or infinity in {listed(broken)}.")
        return self.weights[kind]


def load_trained(path: Path) -> TrainedModel:
    """Read a checkpoint, the latest valid checkpoint of a run's directory, or an exported file.

    Raises:
        UserError: if there is none, or it is damaged or not one of diffexp's.
    """
    file = find_checkpoint(path)
    if path.is_dir():
        newest = latest_valid_checkpoint(Run(path).checkpoints)
        file = newest[0] if newest is not None else file
    return _from_export(file) if file.suffix == EXPORTED else _from_checkpoint(file)


def build_trained(trained: TrainedModel, weights: str, accelerator: str) -> GenerativeModel:
    """Build a model with the requested weights on the requested device.

    Raises:
        UserError: if the weights do not fit the network, the file has no such weights, or the device is missing.
    """
    chosen = trained.chosen(weights)
    try:
        model = build_model(trained.experiment, most=sum(tensor.numel() for tensor in chosen.values()))
    except UserError as error:
        raise UserError(f"{trained.path}: the weights do not fit the config in the file: {error}") from error
    try:
        model.load_state_dict(chosen)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{trained.path}: the weights do not fit the config in the file: {error}") from error
    model.class_names = trained.class_names
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
        names = content.get("class_names")
        return TrainedModel(
            path,
            content["global_step"],
            experiment,
            weights,
            None if names is None else [str(name) for name in names],
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: expected tensors by name, got weights in another form.") from error


def _from_export(path: Path) -> TrainedModel:
    exported = read_exported(path)
    experiment = experiment_from_text(exported.config, str(path))
    return TrainedModel(path, exported.step, experiment, {exported.kind: exported.weights}, exported.class_names)
