"""Atomic downloads through torchvision."""

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

from diffexp.errors import UserError

# Seconds without an answer after which a server counts as unreachable; urllib's default is no timeout.
PATIENCE = 15.0


def download(dataset: Callable[[str], object], root: Path, folder: str, instead: str) -> None:
    """Let `dataset` download itself, then move its files to root/folder, each atomically.

    Args:
        dataset: downloads and verifies everything below the directory it is called with.
        root: the folder for data sets; created if missing.
        folder: where `dataset` puts its files, relative to its directory.
        instead: what to do without a network, for the message.

    Raises:
        UserError: if the download fails.
    """
    target = root / folder
    try:
        target.mkdir(parents=True, exist_ok=True)
        # on the target's file system, so that a move is an atomic rename
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as temporary:
            with impatient_sockets():
                dataset(temporary)
            for file in (Path(temporary) / folder).iterdir():
                os.replace(file, target / file.name)
    except (OSError, RuntimeError, HTTPException) as error:
        with suppress(OSError):  # a folder that is not empty or was never created is kept
            for made in (target, *target.parents):
                if made == root.parent:
                    break
                made.rmdir()
        reason = " ".join(str(error).split())
        raise UserError(
            f"{target}: files are missing or damaged, and the download failed: {reason}. {instead}"
        ) from error


@contextmanager
def impatient_sockets() -> Iterator[None]:
    """Treat a server that does not answer for 15 seconds as unreachable within this context."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
