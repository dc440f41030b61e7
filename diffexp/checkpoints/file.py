"""Checkpoint files: written atomically, sealed with a digest, and read without executing their content.

A file consists of the output of `torch.save` and a seal: the SHA-256 of all bytes before it. `torch.load` ignores the
seal. It also verifies nothing, so without the seal a changed bit in a weight would go unnoticed.
"""

import errno
import hashlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, BinaryIO

import torch
from torch import Tensor

from diffexp.checkpoints.paths import best_checkpoint, list_checkpoints, named_step
from diffexp.errors import EnvironmentFailure, UserError
from diffexp.runs.directory import Run
from diffexp.system.best_effort import reason
from diffexp.system.files import atomic_write, damaged_name, require_folder
from diffexp.system.reading import open_regular

log = logging.getLogger(__name__)

_FOOTER = b"\nsha256 "
_FOOTER_LENGTH = len(_FOOTER) + 64 + 1


class _Digesting:
    """A file that hashes its content and records an OSError, because torch does not report a full disk."""

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self.error: OSError | None = None
        self._file = file

    def write(self, data: bytes) -> int:
        try:
            written = self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(data)
        return written

    def flush(self) -> None:
        self._file.flush()


def write_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint atomically. An older file of this name remains until the new one is on disk.

    Raises:
        OSError: if it cannot be written. If the disk has too little space, before anything is written.
    """
    require_folder(path.parent.parent)
    path.parent.mkdir(exist_ok=True)
    needed, free = sum(tensor.nbytes for tensor in _tensors(content)), shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed / 1e6:.3g} MB are needed, {free / 1e6:.3g} MB are free", str(path))
    with atomic_write(path) as file:
        digesting = _Digesting(file)
        try:
            torch.save(content, digesting)  # type: ignore[arg-type]  # needs write and flush only
        except RuntimeError:
            if digesting.error is not None:
                raise digesting.error from None
            raise
        file.write(_FOOTER + digesting.digest.hexdigest().encode() + b"\n")


def read_checkpoint(path: Path, *, checked: bool = True) -> dict[str, Any]:
    """Read a checkpoint file to the CPU. Nothing in it is executed.

    Args:
        path: a local file.
        checked: whether the content must be that of a run of diffexp.

    Raises:
        UserError: if it is damaged, not a checkpoint of diffexp, or named after another step than its own.
        EnvironmentFailure: if it cannot be read, which leaves open whether it is valid.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: expected a checkpoint, got what is no regular file.")
    try:
        _check_footer(path)
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if checked:
            _check_types(content)
    except (OSError, MemoryError) as error:
        raise EnvironmentFailure(f"{path}: cannot be read: {reason(error)}.") from error
    except Exception as error:  # torch raises almost any exception for a damaged file
        why = str(error) if isinstance(error, _ContentError) else type(error).__name__
        raise UserError(f"{path}: is damaged or not a checkpoint of diffexp ({why}).") from error
    named, step = named_step(path), content.get("global_step")
    if named is not None and step != named and checked:
        raise UserError(
            f"{path}: expected the checkpoint of step {named}, as in its name, got that of step {step}. Rename it."
        )
    return content


class _ContentError(Exception):
    """A problem of a file's content."""


# The parts of a checkpoint that diffexp reads itself.
_TYPES: dict[str, type | UnionType] = {
    "config": str,
    "state_dict": dict,
    "callbacks": dict,
    "global_step": int,
    "data": str | None,
    "run_id": str | None,
    "metrics": dict | None,
}


def _check_types(content: Any) -> None:
    if not isinstance(content, dict):
        raise _ContentError(f"it holds a {type(content).__name__}, not a mapping")
    for key, kind in _TYPES.items():
        value = content.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise _ContentError(f"its {key} is of type {type(value).__name__}")
    if content["global_step"] < 0:
        raise _ContentError(f"its global_step is {content['global_step']}")
    metrics = content.get("metrics")
    if metrics is not None and [type(metrics.get(key)) for key in ("length", "sha256")] != [int, str]:
        raise _ContentError("its metrics are no length and SHA-256")


def _check_footer(path: Path) -> None:
    size = path.stat().st_size - _FOOTER_LENGTH
    digest = hashlib.sha256()
    with open_regular(path) as file:
        left = size
        while left > 0 and (chunk := file.read(min(left, 1 << 20))):
            digest.update(chunk)
            left -= len(chunk)
        footer = file.read()
    if size <= 0 or not footer.startswith(_FOOTER):
        raise _ContentError("no SHA-256 at its end")
    if footer != _FOOTER + digest.hexdigest().encode() + b"\n":
        raise _ContentError("its content does not match its SHA-256")


def latest_valid_checkpoint(folder: Path, *, quarantine: bool = False) -> tuple[Path, dict[str, Any]] | None:
    """Return the latest valid checkpoint and its content, or None if there are no checkpoints.

    Warns of damaged checkpoints. One of another step than its name says, or of another run, counts as damaged.

    Args:
        folder: a run's checkpoints/.
        quarantine: rename damaged checkpoints later than the valid one, so that they are not read again.

    Raises:
        EnvironmentFailure: if a checkpoint cannot be read at the moment.
        UserError: if there are checkpoints but none is valid. Silently starting from scratch would lose the run.
    """
    found = list_checkpoints(folder)
    damaged: list[Path] = []
    hint = " Restore one, or remove the run's directory to start from scratch." if quarantine else ""
    for path in reversed(found):
        try:
            content = read_checkpoint(path)
            _check_run(path, content)
        except EnvironmentFailure:
            if path.exists():
                raise
            continue  # rank 0 has renamed it
        except UserError as error:
            log.warning("%s", error)
            damaged.append(path)
            continue
        for each in damaged if quarantine else ():
            kept = damaged_name(each)
            each.rename(kept)
            log.warning("%s is renamed to %s", each, kept.name)
        if damaged:
            log.warning("%s is used instead", path)
        return path, content
    if found:
        raise UserError(f"{folder}: expected a valid checkpoint, got only damaged ones.{hint}")
    return None


def _check_run(path: Path, content: dict[str, Any]) -> None:
    """Check that a checkpoint belongs to its run, if both have an ID.

    Raises:
        UserError: if the IDs differ.
    """
    ours, its = Run(path.parent.parent).id(), content.get("run_id")
    if ours is not None and its is not None and ours != its:
        raise UserError(f"{path}: expected a checkpoint of the run {ours}, got one of {its}. Restore the run's own.")


def prune(folder: Path, keep: int | None, spared: Path | None = None) -> None:
    """Remove all but the latest `keep` checkpoints, that which best.ckpt links to, and `spared`; None keeps all.

    Raises:
        OSError: if one cannot be removed.
    """
    for old in list_checkpoints(folder)[:-keep] if keep is not None else ():
        if old not in (spared, best_checkpoint(folder)):
            old.unlink()


def _tensors(content: Any) -> Iterator[Tensor]:
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, dict):
        for each in content.values():
            yield from _tensors(each)
    elif isinstance(content, (list, tuple)):
        for each in content:
            yield from _tensors(each)


STATE_KEY = "EMA"


def averaged(checkpoint: dict[str, Any]) -> dict[str, Tensor] | None:
    """Return the averaged parameters in a checkpoint by name, or None if it has none."""
    state = checkpoint.get("callbacks", {}).get(STATE_KEY)
    return None if state is None else state["average"]
