"""Checkpoint files: whole or absent, sealed with a digest, and read without running anything in them.

A file is what `torch.save` writes and, behind it, a seal: SHA-256 of all before. torch reads over the seal; without it
a changed bit in a weight would go unnoticed, because `torch.load` checks nothing.
"""

import errno
import hashlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from diffexp.checkpoints.paths import list_checkpoints, named_step
from diffexp.errors import EnvironmentFailure, UserError
from diffexp.runs.directory import Run
from diffexp.system.best_effort import reason
from diffexp.system.files import atomic_write, damaged_name, require_folder

log = logging.getLogger(__name__)

_FOOTER = b"\nsha256 "
_FOOTER_LENGTH = len(_FOOTER) + 64 + 1


class _Digesting:
    """A file that digests what is written to it, and remembers an error: torch tells nothing of a full disk."""

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
    """Write a checkpoint; an older file of this name stays until the new one is on the disk.

    Raises:
        OSError: if it cannot be written; for a full disk, also before anything is.
    """
    require_folder(path.parent.parent)
    path.parent.mkdir(exist_ok=True)
    needed, free = sum(tensor.nbytes for tensor in _tensors(content)), shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed / 1e6:.3g} MB are needed, {free / 1e6:.3g} MB are free", str(path))
    with atomic_write(path) as file:
        digesting = _Digesting(file)
        try:
            torch.save(content, digesting)  # type: ignore[arg-type]  # it needs write and flush
        except RuntimeError:
            if digesting.error is not None:
                raise digesting.error from None
            raise
        file.write(_FOOTER + digesting.digest.hexdigest().encode() + b"\n")


def read_checkpoint(path: Path, needed: tuple[str, ...] = ("config", "state_dict", "callbacks")) -> dict[str, Any]:
    """What a checkpoint file holds, on the CPU. Nothing in it is executed.

    Args:
        path: a local file.
        needed: keys without which it is none of diffexp's.

    Raises:
        UserError: if it is damaged, no checkpoint of ours, or named after another step than it holds.
        EnvironmentFailure: if it cannot be read, which says nothing of what it holds.
    """
    try:
        _check_footer(path)
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        for key in needed:
            content[key]
    except (OSError, MemoryError) as error:
        raise EnvironmentFailure(f"{path}: cannot be read: {reason(error)}") from error
    except Exception as error:  # a damaged file makes torch raise almost anything
        why = str(error) if isinstance(error, _ChecksumError) else type(error).__name__
        raise UserError(f"{path}: is damaged or not a checkpoint of diffexp ({why})") from error
    named, step = named_step(path), content.get("global_step")
    if named is not None and step != named and needed:
        raise UserError(
            f"{path}: expected the checkpoint of step {named}, as its name says, got that of step {step}. Rename it."
        )
    return content


class _ChecksumError(Exception):
    pass


def _check_footer(path: Path) -> None:
    size = path.stat().st_size - _FOOTER_LENGTH
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = size
        while left > 0 and (chunk := file.read(min(left, 1 << 20))):
            digest.update(chunk)
            left -= len(chunk)
        footer = file.read()
    if size <= 0 or not footer.startswith(_FOOTER):
        raise _ChecksumError("it does not end as one")
    if footer != _FOOTER + digest.hexdigest().encode() + b"\n":
        raise _ChecksumError("its SHA-256 is not the one it was sealed with")


def latest_valid_checkpoint(folder: Path, *, quarantine: bool = False) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that can be read, and what it holds; None if there are none. Damaged ones are warned of.

    One of another step than its name says, or of another run, counts as damaged.

    Args:
        folder: a run's checkpoints/.
        quarantine: rename the damaged ones that are newer, so that they are not taken for checkpoints again.

    Raises:
        EnvironmentFailure: if one cannot be read now.
        UserError: if there are checkpoints, but none is whole: to begin anew in silence would be to lose the run.
    """
    found = list_checkpoints(folder)
    damaged: list[Path] = []
    hint = "; bring one back, or take the whole run away to start from the beginning" if quarantine else ""
    for path in reversed(found):
        try:
            content = read_checkpoint(path)
            _check_run(path, content)
        except EnvironmentFailure:
            if path.exists():
                raise
            continue  # the first process of the training has set it aside
        except UserError as error:
            log.warning("%s", error)
            damaged.append(path)
            continue
        for each in damaged if quarantine else ():
            kept = damaged_name(each)
            each.rename(kept)
            log.warning("%s is kept as %s", each, kept.name)
        if damaged:
            log.warning("%s is taken instead", path)
        return path, content
    if found:
        raise UserError(f"{folder}: none of the checkpoints can be read{hint}")
    return None


def _check_run(path: Path, content: dict[str, Any]) -> None:
    """Refuse the checkpoint of another run, where both say which they are.

    Raises:
        UserError: if they differ.
    """
    ours, its = Run(path.parent.parent).id(), content.get("run_id")
    if ours is not None and its is not None and ours != its:
        raise UserError(f"{path}: expected a checkpoint of the run {ours}, got one of {its}. Bring back the run's own.")


def prune(folder: Path, keep: int | None) -> None:
    """Remove all but so many of the newest checkpoints; None keeps all.

    Raises:
        OSError: if one cannot be removed.
    """
    for old in list_checkpoints(folder)[:-keep] if keep is not None else ():
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
    """The averaged parameters in a checkpoint by name, or None if it has none."""
    state = checkpoint.get("callbacks", {}).get(STATE_KEY)
    return None if state is None else state["average"]
