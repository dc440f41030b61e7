"""Checkpoints that are whole or absent, named by the optimiser step they were taken at."""

import logging
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from diffexp.errors import UserError
from diffexp.files import whole_file

log = logging.getLogger(__name__)

_NAME = re.compile(r"step-(\d+)\.ckpt")


class WholeFileCheckpointIO(TorchCheckpointIO):
    """A checkpoint's final name never holds a part of one.

    Lightning's own writer goes through $TMPDIR, from where moving is not atomic across filesystems.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write the checkpoint to `path`."""
        with whole_file(Path(path)) as file:
            torch.save(checkpoint, file)


class Checkpoints(L.Callback):
    """Saves a checkpoint every so many optimiser steps and when training ends, however it ends at a step boundary.

    Lightning's ModelCheckpoint saves neither at the end of a run that is no whole number of intervals,
    nor under a name that says the step alone.

    Args:
        folder: where the files step-00001000.ckpt, … go.
        every: steps between two.
        keep: how many of the newest stay; None keeps all.
        extra: plain data to put into each checkpoint.
        on_saved: called with the file on the main process, after it is safe.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        keep: int | None = 2,
        extra: dict[str, Any] | None = None,
        on_saved: Callable[[Path], None] | None = None,
    ) -> None:
        self.folder = folder
        self.every = every
        self.keep = keep
        self.extra = extra or {}
        self.on_saved = on_saved
        self._saved_step = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A resumed run need not save again what it started from."""
        self._saved_step = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Save, if this batch ended a step that is due, or the last one."""
        if trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps:
            self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the last step."""
        self._save(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the extra data."""
        checkpoint.update(self.extra)

    def _save(self, trainer: L.Trainer) -> None:
        if trainer.global_step == self._saved_step:
            return
        if not all(parameter.isfinite().all() for parameter in trainer.lightning_module.parameters()):
            raise UserError(f"the weights are not finite at step {trainer.global_step}; the last checkpoint stays")
        self._saved_step = trainer.global_step
        path = self.folder / f"step-{trainer.global_step:08d}.ckpt"
        trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            if self.keep is not None:
                for old in checkpoints(self.folder)[: -self.keep]:
                    old.unlink()
            if self.on_saved is not None:
                self.on_saved(path)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest step first."""
    files = [file for file in folder.glob("step-*.ckpt") if _NAME.fullmatch(file.name)]
    return sorted(files, key=step_of)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint file holds, on the CPU. Nothing in it is executed.

    Raises:
        UserError: if it is damaged or no checkpoint of ours.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("not what torch.save writes")
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        content["config"], content["state_dict"], content["callbacks"]
    except Exception as error:  # a damaged file makes torch raise almost anything
        raise UserError(f"{path}: is damaged or not a checkpoint of diffexp ({type(error).__name__})") from error
    return content


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint that can be read, None if there are none; damaged newer ones are warned of.

    Raises:
        UserError: if there are checkpoints, but none can be read.
    """
    found = checkpoints(folder)
    for path in reversed(found):
        try:
            read_checkpoint(path)
        except UserError as error:
            log.warning("%s", error)
        else:
            return path
    if found:
        raise UserError(f"{folder}: none of the checkpoints can be read; remove them to start from the beginning")
    return None


def step_of(path: Path) -> int:
    """The optimiser step in a checkpoint's name.

    Raises:
        ValueError: if the name is not that of a checkpoint.
    """
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path.name} is not named step-NUMBER.ckpt")
    return int(match[1])
