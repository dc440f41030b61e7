"""A .npz is read only if it is what its headers claim."""

import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from diffexp.data import arrays
from diffexp.data.arrays import array_names, read_arrays
from diffexp.data.load_images import load_images
from diffexp.errors import UserError
from diffexp.evaluation.reference import read_published
from tests.helpers.sets import digits_extractor
from tests.helpers.small import diffexp


def write(path: Path, header: str, data: bytes = b"", names: tuple[str, ...] = ("images",)) -> Path:
    """A .npz with arrays of this header, written by the specification of the format."""
    text = header.encode()
    text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data)
    return path


def header(shape: str, kind: str = "|u1") -> str:
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"


def test_arrays_are_those_that_numpy_wrote(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    wanted = {"a": np.arange(12.0).reshape(3, 4).T, "b": np.array("text"), "c": np.int64(3), "d": np.zeros((0, 2))}
    np.savez(path, **wanted)
    assert array_names(path) == ["a", "b", "c", "d"]
    found = read_arrays(path)
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == np.asarray(array).dtype
    assert list(read_arrays(path, "b")) == ["b"]


BAD = {
    "huge": (
        header("(1000000000000, 8, 8, 1)"),
        b"",
        r"the shape \(1000000000000, 8, 8, 1\), which takes 64000000000000",
    ),
    "overflowing": (header("(4294967296, 4294967296, 4294967296)"), b"", "in 0 bytes"),
    "negative": (header("(-5, 8, 8, 1)"), bytes(64), r"the shape \(-5, 8, 8, 1\)"),
    "short": (header("(2, 8, 8, 1)"), bytes(127), "takes 128 bytes, in 127 bytes"),
    "objects": (header("(5,)", "|O"), bytes(64), "an array of Python objects"),
    "code": ("__import__('os').abort()", b"", "a damaged header"),
    "nested": ("(" * 5000, b"", "a damaged header"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_header_that_lies_is_refused(tmp_path: Path, name: str) -> None:
    text, data, problem = BAD[name]
    path = write(tmp_path / "bad.npz", text, data, ("images", "mu", "sigma"))
    with pytest.raises(UserError, match=rf"bad\.npz: expected a \.npz of arrays, got: .*({problem})"):
        load_images(path)
    with pytest.raises(
        UserError, match=rf"reference\.file: .*bad\.npz: expected a \.npz of arrays, got: .*({problem})"
    ):
        read_published(path, digits_extractor())


def test_an_array_larger_than_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", images=np.zeros((1000, 8, 8, 1), np.uint8))
    monkeypatch.setattr(arrays, "machine_memory", lambda: 63_999)
    with pytest.raises(UserError, match=r"an array of 5\.96e-05 GiB on a machine with 5\.96e-05 GiB of memory"):
        load_images(tmp_path / "bomb.npz")


@pytest.mark.parametrize("content", [b"", b"PK\5\6" + bytes(18), b"?" * 100, b"PK\3\4" + bytes(100)])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.npz: expected an array images or arr_0, got nothing|expected a \.npz"):
        load_images(tmp_path / "x.npz")


def test_a_fifo_and_a_device_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.npz")
    (tmp_path / "zero.npz").symlink_to("/dev/zero")
    for name in ("fifo.npz", "zero.npz"):
        with pytest.raises(UserError, match=rf"{name}: expected a \.npz of arrays, got: not a regular file"):
            load_images(tmp_path / name)


def test_score_refuses_them_without_a_traceback(tmp_path: Path) -> None:
    write(tmp_path / "huge.npz", BAD["huge"][0])
    printed = diffexp("score", "huge.npz", "digits", cwd=tmp_path, expect=2).stderr
    assert "huge.npz: expected a .npz of arrays, got: images.npy: the shape (1000000000000, 8, 8, 1)" in printed
