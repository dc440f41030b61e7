"""What `diffexp import` reads and writes, checked without torch."""

from pathlib import Path

from diffexp.checkpoints.paths import EXPORTED
from diffexp.config.schemas.requests import ImportRequest
from diffexp.errors import UserError
from diffexp.system.files import check_writable, refuse_existing


def check_import(path: Path, request: ImportRequest) -> tuple[Path, Path]:
    """Return the paths of the file of weights and the config that an import writes.

    Args:
        path: the file or folder to import.
        request: the files to write.

    Raises:
        UserError: if there is nothing at `path`, or the files cannot be written or must stay.
    """
    if not path.exists():
        raise UserError(f"{path}: expected a file or folder, got none. Download it first, as diffexp does not.")
    out = Path(request.out) if request.out is not None else Path(f"{path.resolve().stem}{EXPORTED}")
    config = out.with_suffix(".yaml")
    if out.suffix != EXPORTED:
        raise UserError(f"out: expected a name that ends in {EXPORTED}, got {out}. Give another out.")
    for file in (out, config):
        refuse_existing(file, "out", overwrite=request.overwrite)
    check_writable(out, "out")
    return out, config
