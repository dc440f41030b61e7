"""Export the weights of a trained model."""

from pathlib import Path

from diffexp.checkpoints.exported_file import Exported, write_exported
from diffexp.checkpoints.load import TrainedModel
from diffexp.runs.directory import config_text


def export_weights(trained: TrainedModel, kind: str, out: Path) -> None:
    """Write the "raw" or the "ema" weights to an exported file.

    Raises:
        UserError: if the model has no such weights, or the file cannot be written.
    """
    exported = Exported(config_text(trained.experiment), trained.step, kind, trained.chosen(kind), trained.class_names)
    write_exported(exported, out)
