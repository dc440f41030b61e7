import logging
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from diffexp.data.load_images import load_images
from diffexp.errors import UserError
from tests.helpers.image_places import (
    BROKEN,
    IN_MEMORY,
    ON_DISK,
    TWO_CLASSES,
    Pack,
    noise_png,
    png,
    read,
    values,
    write_folder,
    write_zip,
)

# --- broken files


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_by_name(pack: Pack, name: str) -> None:
    data, reason = BROKEN[name]
    with pytest.raises(
        UserError, match=rf"images.*: cannot decode 1 of 5 files: {name} \(.*{reason}.*on_decode_error=skip"
    ):
        read(pack(TWO_CLASSES | {name: data}))


def test_broken_files_are_skipped_with_a_warning(pack: Pack, caplog: pytest.LogCaptureFixture) -> None:
    files = {"a/1.png": png(1), "b/2.png": png(2)} | {name: data for name, (data, _) in BROKEN.items()}
    images = read(pack(files), on_decode_error="skip")
    assert values(images) == [1, 2]
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1]
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "cannot decode 4 of 6 files" in record.getMessage()
    assert all(name in record.getMessage() for name in BROKEN)


def test_a_long_list_of_broken_files_is_cut(pack: Pack) -> None:
    with pytest.raises(UserError, match=r"8 of 9 files: 0.png \(not an image\), .*4.png \(not an image\) and 3 more"):
        read(pack({f"{number}.png": b"?" for number in range(8)} | {"good.png": png(1)}))


def test_something_must_be_left(pack: Pack) -> None:
    with pytest.raises(UserError, match="cannot decode 1 of 1 files"):
        read(pack({"a.png": b"?"}), on_decode_error="skip")


@pytest.mark.parametrize("memory_gb", [IN_MEMORY, ON_DISK])
def test_all_images_are_decoded_at_the_start_wherever_they_are_kept(pack: Pack, memory_gb: float) -> None:
    path = pack(TWO_CLASSES | {name: data for name, (data, _) in BROKEN.items()})
    with pytest.raises(UserError, match=r"cannot decode 4 of 8 files: a/text\.jpg .*, a/truncated\.png"):
        read(path, memory_gb=memory_gb)
    images = read(path, memory_gb=memory_gb, on_decode_error="skip")
    assert values(images) == [1, 2, 4, 3]
    assert images.labels is not None
    assert images.labels.tolist() == [2, 2, 3, 3]


def test_on_disk_later_damage_stops_with_the_name(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "images", {"a.png": png(1), "b.png": noise_png()})
    images = read(path, memory_gb=ON_DISK)
    (path / "b.png").write_bytes(BROKEN["a/truncated.png"][0])
    with pytest.raises(UserError, match=r"images.*: cannot decode b\.png \(.*truncated"):
        images.fetch(torch.tensor([0, 1]))


def test_a_damaged_member_of_a_zip_is_a_broken_file(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:  # stored, so that the bytes can be found
        archive.writestr("good.png", png(1))
        archive.writestr("bad.png", noise_png())
    data = bytearray(path.read_bytes())
    data[data.index(noise_png()) + 500] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"cannot decode 1 of 2 files: bad\.png \(Bad CRC-32"):
        read(path)
    assert values(read(path, on_decode_error="skip")) == [1]


# --- bad places


def test_a_missing_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path}/nowhere: expected a folder or a zip"):
        read(tmp_path / "nowhere")


def test_a_place_without_images_is_refused(pack: Pack) -> None:
    with pytest.raises(UserError, match=r"images.*: expected images that PIL can read, got 1 like notes\.txt\."):
        read(pack({"notes.txt": b"", ".hidden.png": png(1)}))


@pytest.mark.parametrize("damage", [lambda data: b"hello", lambda data: data[:-30], lambda data: b""])
def test_what_is_no_zip_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = write_zip(tmp_path / "images.zip", TWO_CLASSES)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=rf"{path}: expected a folder or an intact zip, got: "):
        read(path)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "images.zip", {"a.png": png(1)})
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the flag in the member's own header
    data[data.index(b"PK\x01\x02") + 8] |= 1  # and in the table of contents
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"{path}: expected an unencrypted zip"):
        read(path)


# --- files that are no images


@pytest.mark.parametrize("memory_gb", [IN_MEMORY, ON_DISK])
def test_fifos_and_devices_are_not_read(tmp_path: Path, memory_gb: float) -> None:
    path = write_folder(tmp_path / "images", {"a.png": png(1), "b.png": png(2)})
    os.mkfifo(path / "fifo.png")
    (path / "zero.png").symlink_to("/dev/zero")
    (path / "link.png").symlink_to("b.png")
    (path / "nothing.png").symlink_to("c.png")
    with pytest.raises(UserError, match=r"3 of 6 files: fifo\.png \(not a regular file\), nothing\.png \(No such file"):
        read(path, memory_gb=memory_gb)
    assert values(read(path, memory_gb=memory_gb, on_decode_error="skip")) == [1, 2, 2]


@pytest.mark.parametrize("place", ["/dev/zero", "/dev/null", "fifo"])
def test_only_folders_and_regular_files_are_places(tmp_path: Path, place: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UserError, match=r"expected a folder or an intact zip, got: .*not a regular file"):
        read(tmp_path / place)  # an absolute path stays


def test_no_other_program_is_started_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n"
    path = write_folder(tmp_path / "images", {"a.png": png(1), "eps.png": eps})
    for program in ("gs", "gswin32c"):
        write_folder(tmp_path / "bin", {program: b"#!/bin/sh\ntouch started\n"})
        (tmp_path / "bin" / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"eps\.png \(not an image\)"):
        read(path)
    with pytest.raises(UserError, match=r"eps\.png \(not an image\)"):
        load_images(path)
    assert not (tmp_path / "started").exists()
