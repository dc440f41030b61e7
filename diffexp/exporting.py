"""`diffexp export`: a trained model as one file to hand over, or as a folder for diffusers."""

from pathlib import Path

from diffexp.config.diffusion import DiffusionConfig
from diffexp.config.experiment import ExportRequest
from diffexp.errors import UserError
from diffexp.files import refuse_existing, writable
from diffexp.foreign import diffusers
from diffexp.trained import EXPORTED, Trained, export_weights


def export(trained: Trained, request: ExportRequest) -> Path:
    """Write the file or folder, and say where.

    Raises:
        UserError: if the place, or the weights, are not there, or the other library knows no such model.
    """
    diffusers_wanted = request.format == "diffusers"
    default = _default_out(trained, f"{request.weights}-diffusers" if diffusers_wanted else request.weights + EXPORTED)
    out = default if request.out is None else Path(request.out)
    if diffusers_wanted:
        _export_diffusers(trained, request, out)
        return out
    if out.suffix != EXPORTED:
        raise UserError(f"out: {out} must end in {EXPORTED}")
    writable(out, "out")
    if out.is_dir():
        raise UserError(f"out: {out} is a folder")
    refuse_existing(out, "out", overwrite=request.overwrite)
    export_weights(trained, request.weights, out)
    return out


def _export_diffusers(trained: Trained, request: ExportRequest, out: Path) -> None:
    index = out / "model_index.json"
    writable(index, "out")
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not index.is_file()):
        raise UserError(f"out: {out} must be a new or empty folder")
    refuse_existing(index, "out", overwrite=request.overwrite)
    experiment = trained.experiment
    if type(experiment.model) is not DiffusionConfig:
        raise UserError(f"model.name: {experiment.model.name} is not known to diffusers; only diffusion is")
    data, weights = experiment.data, trained.chosen(request.weights)
    try:
        diffusers.write(experiment.model, data.image_size, data.channels, weights, out)
    except OSError as error:
        raise UserError(f"out: {out} cannot be written: {error.strerror}") from error


def _default_out(trained: Trained, ending: str) -> Path:
    folder = trained.path.parent
    return (folder.parent if folder.name == "checkpoints" else folder) / f"{trained.path.stem}-{ending}"
