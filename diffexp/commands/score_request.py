"""What `diffexp score` is asked, checked without torch."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from diffexp.config.check import check_request
from diffexp.config.load import load_score_request
from diffexp.config.schemas.experiment import Experiment
from diffexp.config.schemas.requests import ScoreRequest
from diffexp.config.schemas.scoring import ReferenceConfig
from diffexp.errors import UserError
from diffexp.system.files import check_writable, refuse_existing


def is_images(path: Path) -> bool:
    """Whether a path is a .npz, or a folder or zip of images, rather than a config or a run directory."""
    return path.suffix.lower() in (".npz", ".zip") or (path.is_dir() and not (path / "config.yaml").is_file())


def checked_request(first: Path, second: Path | Experiment, overrides: Sequence[str]) -> ScoreRequest:
    """Load the request of `diffexp.commands.score.score`, which has the same arguments; check all that needs no image.

    Raises:
        UserError: if a path does not exist, or the request is invalid.
    """
    experiment = None if isinstance(second, Path) else second
    request = load_score_request(overrides, experiment)
    for path in (first, second):
        if isinstance(path, Path) and not path.exists():
            raise UserError(f"{path}: expected a .npz, folder or zip of images, got none. Check the path.")
    if request.out is not None:
        check_writable(Path(request.out), "out")
        if Path(request.out).is_dir():
            raise UserError(f"out: expected a .json file, got the folder {request.out}. Give another out.")
        refuse_existing(Path(request.out), "out", overwrite=request.overwrite)
    if experiment is None and replace(request.reference, cache=None) != ReferenceConfig():
        raise UserError(
            f"reference: expected no split, count or file, as {second} is the reference. Remove these keys."
        )
    check_request(request, experiment)
    return request
