"""The config of a trained model, read without torch, so that mistakes in a request are reported at once."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from diffexp.checkpoints.paths import EXPORTED
from diffexp.config.load import experiment_from_text
from diffexp.config.schemas.experiment import Experiment
from diffexp.errors import UserError
from diffexp.runs.directory import Run
from diffexp.system.reading import open_regular


def stored_experiment(path: Path) -> Experiment | None:
    """Return the experiment of a run's directory, of a checkpoint in one, or of an exported file.

    None if torch is needed to read it, or it cannot be read. Loading the model explains why.
    """
    try:
        return experiment_from_text(_text(path), str(path))
    except (UserError, SafetensorError, OSError, ValueError, KeyError):
        return None


def _text(path: Path) -> str:
    if path.suffix == EXPORTED:
        with safe_open(path, framework="np") as file:
            return str((file.metadata() or {})["config"])
    run = Run(path if path.is_dir() else path.absolute().parent.parent)
    if path.is_file() and path.absolute().parent != run.checkpoints:
        raise ValueError("a checkpoint outside of a run")
    with open_regular(run.config) as file:
        return file.read().decode()
