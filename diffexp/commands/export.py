"""`diffexp export`: write a trained model as one file, or as a folder for diffusers."""

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
    """Write the file or folder, and return its path.

    Raises:
        UserError: if `out` cannot be written, the checkpoint lacks the weights, or diffusers has no such model.
    """
    diffusers_wanted = request.format == "diffusers"
    ending = f"{request.weights}-diffusers" if diffusers_wanted else request.weights + EXPORTED
    out = trained.folder / f"{trained.path.stem}-{ending}" if request.out is None else Path(request.out)
    if diffusers_wanted:
        _export_diffusers(trained, request, out)
        return out
    if out.suffix != EXPORTED:
        raise UserError(f"out: expected a name that ends in {EXPORTED}, got {out}. Give another out.")
    check_writable(out, "out")
    if out.is_dir():
        raise UserError(f"out: expected a file, got the folder {out}. Give another out.")
    refuse_existing(out, "out", overwrite=request.overwrite)
    export_weights(trained, request.weights, out)
    return out


def _export_diffusers(trained: TrainedModel, request: ExportRequest, out: Path) -> None:
    index = out / "model_index.json"
    check_writable(index, "out")
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not index.is_file()):
        raise UserError(f"out: expected a new or empty folder, got {out}. Give another out.")
    refuse_existing(index, "out", overwrite=request.overwrite)
    experiment = trained.experiment
    if type(experiment.model) is not DiffusionConfig:
        raise UserError(
            f"model.name: expected diffusion, the only model that diffusers can load, got {experiment.model.name}. Use "
            "format=safetensors."
        )
    data, weights = experiment.data, trained.chosen(request.weights)
    with writing(f"out: {out}"):
        diffusers.write(experiment.model, data.image_size, data.channels, weights, out)
