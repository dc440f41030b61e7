"""What `diffexp export` can write, and where, checked without torch."""

from pathlib import Path

from diffexp.checkpoints.paths import EXPORTED
from diffexp.config.schemas.experiment import Experiment
from diffexp.config.schemas.models.diffusion import DiffusionConfig
from diffexp.config.schemas.requests import ExportRequest
from diffexp.errors import UserError
from diffexp.system.files import check_writable, refuse_existing


def check_export(experiment: Experiment, request: ExportRequest) -> None:
    """Check that a model has the requested format, and that `out` can be written, if it is given.

    Raises:
        UserError: if diffusers has no such model, `out` has another suffix, cannot be written, or must stay.
    """
    if request.format == "diffusers" and type(experiment.model) is not DiffusionConfig:
        raise UserError(
            f"model.name: expected diffusion, the only model that diffusers can load, got {experiment.model.name}. Use "
            "format=safetensors."
        )
    if request.out is not None and request.format == "diffusers":
        _check_folder(Path(request.out), overwrite=request.overwrite)
    elif request.out is not None:
        _check_file(Path(request.out), overwrite=request.overwrite)


def _check_file(out: Path, *, overwrite: bool) -> None:
    if out.suffix != EXPORTED:
        raise UserError(f"out: expected a name that ends in {EXPORTED}, got {out}. Give another out.")
    check_writable(out, "out")
    if out.is_dir():
        raise UserError(f"out: expected a file, got the folder {out}. Give another out.")
    refuse_existing(out, "out", overwrite=overwrite)


def _check_folder(out: Path, *, overwrite: bool) -> None:
    index = out / "model_index.json"
    check_writable(index, "out")
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not index.is_file()):
        raise UserError(f"out: expected a new or empty folder, got {out}. Give another out.")
    refuse_existing(index, "out", overwrite=overwrite)
