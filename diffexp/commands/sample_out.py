"""Where `diffexp sample` writes, checked without torch."""

import re
from pathlib import Path

from diffexp.errors import UserError
from diffexp.runs.directory import Run
from diffexp.system.files import check_writable, refuse_existing

# Unsupported formats; a folder of such a name would be surprising.
_NOT_WRITTEN = (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".npy", ".pt", ".zip")

# The names of images in a folder.
_NUMBERED = re.compile(r"\d{6,}\.png")


def check_out(out: Path, *, overwrite: bool) -> None:
    """Refuse an `out` that cannot be written, or whose content must stay, before anything is sampled.

    Args:
        out: the file or folder.
        overwrite: whether to replace a file, or the numbered PNGs of a folder that holds nothing else.

    Raises:
        UserError: for an unsupported format, an unwritable place, or content that must stay.
    """
    suffix = out.suffix.lower()
    if suffix in _NOT_WRITTEN:
        raise UserError(f"out: expected NAME.png, NAME.npz or the name of a folder, got {out}. Give another out.")
    check_writable(out, "out")
    if suffix in (".png", ".npz"):
        if out.is_dir():
            raise UserError(f"out: expected a file, got the folder {out}. Give another out.")
        if _is_samples(out.parent):
            raise UserError(
                f"out: expected a place outside {out.parent}, which holds the training's grids, got {out}. Write to "
                "another folder, such as the run's drawings/."
            )
        refuse_existing(out, "out", overwrite=overwrite)
    elif out.is_file():
        raise UserError(
            f"out: expected a folder of PNGs, or NAME.png or NAME.npz, got the file {out}. Give another out."
        )
    elif out.is_dir():
        others = [file.name for file in sorted(out.iterdir()) if not _NUMBERED.fullmatch(file.name)]
        if others:
            raise UserError(f"out: expected a new or empty folder, got {out} with {others[0]}. Give another out.")
        if any(out.iterdir()):
            refuse_existing(out, "out", overwrite=overwrite)


def _is_samples(folder: Path) -> bool:
    run = Run(folder.resolve().parent)
    return folder.resolve() == run.samples and run.exists()
