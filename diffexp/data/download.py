"""Downloads through torchvision that leave either whole files or none."""

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

from diffexp.errors import UserError

# seconds without an answer after which a server counts as unreachable; urllib by itself waits for ever
PATIENCE = 15.0


def download(dataset: Callable[[str], object], root: Path, folder: str, instead: str) -> None:
    """Let `dataset` download itself, then move its files to root/folder, each at once.

    Args:
        dataset: downloads and checks everything below the directory it is called with.
        root: where data sets are kept; made if missing.
        folder: where `dataset` puts its files, relative to its directory.
        instead: what to do without a network, for the message.

    Raises:
        UserError: if the download fails.
    """
    target = root / folder
    try:
        target.mkdir(parents=True, exist_ok=True)
        # beside the target, so that moving is renaming: a file is there whole or not at all
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as temporary:
            with impatient_sockets():
                dataset(temporary)
            for file in (Path(temporary) / folder).iterdir():
                os.replace(file, target / file.name)
    except (OSError, RuntimeError, HTTPException) as error:
        with suppress(OSError):  # what is not empty, or was never made, stays as it is
            for made in (target, *target.parents):
                if made == root.parent:
                    break
                made.rmdir()
        reason = " ".join(str(error).split())
        raise UserError(f"{target} lacks whole files, and they could not be downloaded: {reason}. {instead}") from error


@contextmanager
def impatient_sockets() -> Iterator[None]:
    """Within this context a server that does not answer for 15 seconds counts as unreachable."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
