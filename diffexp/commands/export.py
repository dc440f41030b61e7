"""`diffexp export`: a trained model as one file to hand over, or as a folder for diffusers."""

from pathlib import Path

from diffexp.checkpoints.export import export_weights
from diffexp.checkpoints.exported_file import EXPORTED
from diffexp.checkpoints.load import TrainedModel
from diffexp.config.schemas.models.diffusion import DiffusionConfig
from diffexp.config.schemas.requests import ExportRequest
from diffexp.convert import diffusers
from diffexp.errors import UserError, writing
from diffexp.system.files import check_writable, refuse_existing


def export(trained: TrainedModel, request: ExportRequest) -> Path:
    """Write the file or folder, and say where.

    Raises:
        UserError: if the place, or the weights, are not there, or the other library knows no such model.
    """
    diffusers_wanted = request.format == "diffusers"
    ending = f"{request.weights}-diffusers" if diffusers_wanted else request.weights + EXPORTED
    out = trained.folder / f"{trained.path.stem}-{ending}" if request.out is None else Path(request.out)
    if diffusers_wanted:
        _export_diffusers(trained, request, out)
        return out
    if out.suffix != EXPORTED:
        raise UserError(f"out: {out} must end in {EXPORTED}")
    check_writable(out, "out")
    if out.is_dir():
        raise UserError(f"out: {out} is a folder")
    refuse_existing(out, "out", overwrite=request.overwrite)
    export_weights(trained, request.weights, out)
    return out


def _export_diffusers(trained: TrainedModel, request: ExportRequest, out: Path) -> None:
    index = out / "model_index.json"
    check_writable(index, "out")
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not index.is_file()):
        raise UserError(f"out: {out} must be a new or empty folder")
    refuse_existing(index, "out", overwrite=request.overwrite)
    experiment = trained.experiment
    if type(experiment.model) is not DiffusionConfig:
        raise UserError(f"model.name: {experiment.model.name} is not known to diffusers; only diffusion is")
    data, weights = experiment.data, trained.chosen(request.weights)
    with writing(f"out: {out}"):
        diffusers.write(experiment.model, data.image_size, data.channels, weights, out)
