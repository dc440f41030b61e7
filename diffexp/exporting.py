"""`diffexp export`: a trained model as one file to hand over."""

from pathlib import Path

from diffexp.config.experiment import ExportRequest
from diffexp.errors import UserError
from diffexp.files import writable
from diffexp.trained import EXPORTED, Trained, export_weights


def export(trained: Trained, request: ExportRequest) -> Path:
    """Write the file, and say where.

    Raises:
        UserError: if the place, or the weights, are not there.
    """
    out = Path(request.out) if request.out is not None else _default_out(trained, request.weights)
    if out.suffix != EXPORTED:
        raise UserError(f"out: {out} must end in {EXPORTED}")
    if out.is_dir():
        raise UserError(f"out: {out} is a folder")
    writable(out, "out")
    export_weights(trained, request.weights, out)
    return out


def _default_out(trained: Trained, kind: str) -> Path:
    folder = trained.path.parent
    return (folder.parent if folder.name == "checkpoints" else folder) / f"{trained.path.stem}-{kind}{EXPORTED}"
