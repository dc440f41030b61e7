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

from diffexp.errors import OutsideError, UserError
from diffexp.files import damaged_name, see_folder, whole_file
from diffexp.runs import Run, checkpoints, named_step
from diffexp.tolerance import reason

log = logging.getLogger(__name__)

_SEAL = b"\nsha256 "
_SEAL_LENGTH = len(_SEAL) + 64 + 1


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
    see_folder(path.parent.parent)
    path.parent.mkdir(exist_ok=True)
    needed, free = sum(tensor.nbytes for tensor in _tensors(content)), shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed / 1e6:.3g} MB are needed, {free / 1e6:.3g} MB are free", str(path))
    with whole_file(path) as file:
        digesting = _Digesting(file)
        try:
            torch.save(content, digesting)  # type: ignore[arg-type]  # it needs write and flush
        except RuntimeError:
            if digesting.error is not None:
                raise digesting.error from None
            raise
        file.write(_SEAL + digesting.digest.hexdigest().encode() + b"\n")


def read_checkpoint(path: Path, needed: tuple[str, ...] = ("config", "state_dict", "callbacks")) -> dict[str, Any]:
    """What a checkpoint file holds, on the CPU. Nothing in it is executed.

    Args:
        path: a local file.
        needed: keys without which it is none of diffexp's.

    Raises:
        UserError: if it is damaged, no checkpoint of ours, or named after another step than it holds.
        OutsideError: if it cannot be read, which says nothing of what it holds.
    """
    try:
        _check_seal(path)
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        for key in needed:
            content[key]
    except (OSError, MemoryError) as error:
        raise OutsideError(f"{path}: cannot be read: {reason(error)}") from error
    except Exception as error:  # a damaged file makes torch raise almost anything
        why = str(error) if isinstance(error, _SealError) else type(error).__name__
        raise UserError(f"{path}: is damaged or not a checkpoint of diffexp ({why})") from error
    named, step = named_step(path), content.get("global_step")
    if named is not None and step != named and needed:
        raise UserError(
            f"{path}: expected the checkpoint of step {named}, as its name says, got that of step {step}. Rename it."
        )
    return content


class _SealError(Exception):
    pass


def _check_seal(path: Path) -> None:
    size = path.stat().st_size - _SEAL_LENGTH
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = size
        while left > 0 and (chunk := file.read(min(left, 1 << 20))):
            digest.update(chunk)
            left -= len(chunk)
        seal = file.read()
    if size <= 0 or not seal.startswith(_SEAL):
        raise _SealError("it does not end as one")
    if seal != _SEAL + digest.hexdigest().encode() + b"\n":
        raise _SealError("its SHA-256 is not the one it was sealed with")


def newest_whole(folder: Path, *, set_aside: bool = False) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that can be read, and what it holds; None if there are none. Damaged ones are warned of.

    One of another step than its name says, or of another run, counts as damaged.

    Args:
        folder: a run's checkpoints/.
        set_aside: rename the damaged ones that are newer, so that they are not taken for checkpoints again.

    Raises:
        OutsideError: if one cannot be read now.
        UserError: if there are checkpoints, but none is whole: to begin anew in silence would be to lose the run.
    """
    found = checkpoints(folder)
    damaged: list[Path] = []
    hint = "; bring one back, or take the whole run away to start from the beginning" if set_aside else ""
    for path in reversed(found):
        try:
            content = read_checkpoint(path)
            _check_run(path, content)
        except OutsideError:
            if path.exists():
                raise
            continue  # the first process of the training has set it aside
        except UserError as error:
            log.warning("%s", error)
            damaged.append(path)
            continue
        for each in damaged if set_aside else ():
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
    for old in checkpoints(folder)[:-keep] if keep is not None else ():
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
