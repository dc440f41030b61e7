"""`diffexp export`: write a trained model as one file, or as a folder for diffusers."""

from dataclasses import replace
from pathlib import Path

from diffexp.checkpoints.export import export_weights
from diffexp.checkpoints.load import TrainedModel
from diffexp.checkpoints.paths import EXPORTED
from diffexp.commands.export_out import check_export
from diffexp.config.schemas.models.diffusion import DiffusionConfig
from diffexp.config.schemas.requests import ExportRequest
from diffexp.convert import diffusers
from diffexp.errors import writing


def export(trained: TrainedModel, request: ExportRequest) -> Path:
    """Write the file or folder, and return its path.

    Raises:
        UserError: if `out` cannot be written, the checkpoint lacks the weights, or diffusers has no such model.
    """
    experiment = trained.experiment
    diffusers_wanted = request.format == "diffusers"
    ending = f"{request.weights}-diffusers" if diffusers_wanted else request.weights + EXPORTED
    out = trained.folder / f"{trained.path.stem}-{ending}" if request.out is None else Path(request.out)
    check_export(experiment, replace(request, out=str(out)))
    if not diffusers_wanted:
        export_weights(trained, request.weights, out)
        return out
    assert isinstance(experiment.model, DiffusionConfig)
    data, weights = experiment.data, trained.chosen(request.weights)
    with writing(f"out: {out}"):
        diffusers.write(experiment.model, data.image_size, data.channels, weights, out)
    return out
