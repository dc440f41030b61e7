"""Files of others: only regular ones are read, and links are never followed for writing."""

import errno
import os
import socket
from pathlib import Path

import pytest

from diffexp.errors import EnvironmentFailure, UserError
from diffexp.system.locks import in_use, locked
from diffexp.system.reading import open_regular, reading


@pytest.fixture
def strange(tmp_path: Path) -> dict[str, Path]:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as endpoint:
        before = Path.cwd()
        os.chdir(tmp_path)  # the names of sockets are short
        endpoint.bind("socket")
        os.chdir(before)
    return {name: tmp_path / name for name in ("fifo", "zero", "folder", "socket")}


@pytest.mark.parametrize("kind", ["fifo", "zero", "folder", "socket"])
def test_only_regular_files_are_opened(strange: dict[str, Path], kind: str) -> None:
    with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
        open_regular(strange[kind])


def test_links_to_regular_files_are_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"content"


@pytest.mark.parametrize(
    "number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EMFILE, errno.ENOMEM]
)
def test_failures_of_the_machine_are_told_from_faults_of_the_file(number: int) -> None:
    with pytest.raises(EnvironmentFailure, match=f"x: cannot be read: {os.strerror(number)}"), reading(Path("x")):
        raise OSError(number, os.strerror(number))
    for other in (errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ELOOP):
        with pytest.raises(OSError, match=os.strerror(other)), reading(Path("x")):
            raise OSError(other, os.strerror(other))


@pytest.mark.parametrize("target", ["precious", "missing"])
def test_a_lock_does_not_follow_a_link(tmp_path: Path, target: str) -> None:
    (tmp_path / "precious").write_text("content")
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").symlink_to(tmp_path / target)
    refused = pytest.raises(UserError, match=r"run_dir: .*run cannot be written: \.lock is a symbolic link; remove it")
    with refused, locked(run, "run_dir"):
        pass
    assert (tmp_path / "precious").read_text() == "content"
    assert not (tmp_path / "missing").exists()


def test_a_fifo_as_lock_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".lock")
    in_use(tmp_path)
    with pytest.raises(UserError, match=r"\.lock is not a regular file; remove it"), locked(tmp_path, "run_dir"):
        pass
