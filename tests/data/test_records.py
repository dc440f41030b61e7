"""Sets on disk: when what is known of them holds, and when they are decoded again."""

import hashlib
import json
import multiprocessing
import os
import shutil
import time

import numpy as np
import pytest
import torch
from PIL import Image

from diffexp.data import image_files, records
from diffexp.data.image_folder import load
from diffexp.system import notices
from tests.helpers.image_places import BROKEN, write_zip

COUNT = 70


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    monkeypatch.setattr(records, "SETTLING", 0)


@pytest.fixture
def folder(tmp_path):
    """BMPs, which are all of the same size."""
    place = tmp_path / "images"
    place.mkdir()
    for index, pixels in enumerate(noise()):
        Image.fromarray(pixels).save(place / f"{index:02}.bmp")
    time.sleep(0.01)  # a tick of the clock that files are stamped with
    return place


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files decoded from now on."""
    names = []
    image = image_files.StoredImages._image

    def noted(self, index):
        names.append(self.names[index])
        return image(self, index)

    monkeypatch.setattr(image_files.StoredImages, "_image", noted)
    return names


def noise():
    return np.random.default_rng(0).integers(0, 256, (COUNT, 4, 4), dtype=np.uint8)


def on_disk(place, **own):
    return load("train", 4, 1, 0, path=str(place), **own)


def expected(pixels):
    """By hand: the SHA-256 of count and shape, then of all pixels in order."""
    return hashlib.sha256(repr((len(pixels), (1, 4, 4))).encode() + pixels.tobytes()).hexdigest()


def test_the_fingerprint_is_of_all_pixels_however_they_are_held(folder, tmp_path):
    archive = write_zip(tmp_path / "images.zip", {f"x/{file.name}": file.read_bytes() for file in folder.iterdir()})
    in_memory = load("train", 4, 1, 1, path=str(folder))
    found = {images.fingerprint() for images in (on_disk(folder), on_disk(archive), in_memory)}
    assert found == {expected(noise())}


def test_blocks_do_not_change_the_fingerprint(folder, monkeypatch):
    monkeypatch.setattr(image_files, "images_in_a_block", lambda shape: 11)
    assert on_disk(folder).fingerprint() == expected(noise())


def test_files_are_decoded_once(folder, decoded):
    first = on_disk(folder).fingerprint()
    assert len(decoded) == COUNT
    assert on_disk(folder).fingerprint() == first
    assert len(decoded) == COUNT
    folder = folder.rename(folder.with_name("moved"))
    assert on_disk(folder).fingerprint() == first
    assert len(decoded) == COUNT


def in_place(file, other):
    file.write_bytes(other.read_bytes())


def in_place_with_its_time(file, other):
    state = file.stat()
    in_place(file, other)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


def copied_with_its_time(file, other):
    state = file.stat()
    os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
    shutil.copy2(other, file)


def renamed_over_it(file, other):
    state = file.stat()
    copy = file.with_name("copy")
    shutil.copy(other, copy)
    os.utime(copy, ns=(state.st_atime_ns, state.st_mtime_ns))
    copy.rename(file)


@pytest.mark.parametrize("change", [in_place, in_place_with_its_time, copied_with_its_time, renamed_over_it])
def test_a_changed_file_in_the_middle_is_noticed(folder, change):
    before = on_disk(folder).fingerprint()
    change(folder / "35.bmp", folder / "12.bmp")
    pixels = noise()
    pixels[35] = pixels[12]
    assert on_disk(folder).fingerprint() == expected(pixels) != before


@pytest.mark.parametrize(
    "own", [{"image_size": 2}, {"channels": 3}, {"test_fraction": 0.5}], ids=lambda own: next(iter(own))
)
def test_another_conversion_or_part_is_another_set(folder, own):
    keys = {"image_size": 4, "channels": 1, **own}
    before = on_disk(folder).fingerprint()
    disk, memory = (load("train", memory_gb=size, path=str(folder), **keys) for size in (0, 1))
    assert disk.fingerprint() == memory.fingerprint() != before


def test_a_changed_zip_is_noticed(tmp_path):
    place = tmp_path / "images.zip"
    found = []
    for value in (1, 2):
        Image.new("L", (4, 4), value).save(tmp_path / "a.bmp")
        write_zip(place, {"a.bmp": (tmp_path / "a.bmp").read_bytes()})
        found.append(on_disk(place).fingerprint())
        time.sleep(0.01)
    assert found == [expected(np.full((1, 4, 4), value, np.uint8)) for value in (1, 2)]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", "a digit", "another name"])
def test_a_damaged_record_is_ignored_and_made_again(folder, own_cache, decoded, damage):
    first = on_disk(folder).fingerprint()
    [file] = (own_cache / "images").iterdir()
    content = json.loads(file.read_text())
    if damage == "a digit":
        content["found"]["pixels"] = "0" + content["found"]["pixels"][1:]
        damage = json.dumps(content).encode()
    elif damage == "another name":  # an intact record of other files
        (folder / "00.bmp").unlink()
        second = on_disk(folder).fingerprint()
        [other] = set((own_cache / "images").iterdir()) - {file}
        shutil.copy(file, other)
        assert on_disk(folder).fingerprint() == second != first
        return
    file.write_bytes(damage)
    assert on_disk(folder).fingerprint() == first
    assert len(decoded) == 2 * COUNT
    assert on_disk(folder).fingerprint() == first
    assert len(decoded) == 2 * COUNT


def test_files_that_have_just_changed_are_decoded_again(folder, own_cache, monkeypatch):
    monkeypatch.setattr(records, "SETTLING", 3600)
    assert on_disk(folder).fingerprint() == expected(noise())
    assert not list((own_cache / "images").iterdir())


def test_files_that_change_meanwhile_leave_no_record(folder, own_cache, monkeypatch):
    examine = image_files.StoredImages._examine

    def disturbed(self):
        found = examine(self)
        (folder / "00.bmp").touch()
        return found

    monkeypatch.setattr(image_files.StoredImages, "_examine", disturbed)
    on_disk(folder)
    assert not list((own_cache / "images").iterdir())


def test_an_error_of_the_machine_is_not_remembered(folder, own_cache, monkeypatch):
    with monkeypatch.context() as patch:

        def failing(self, index):
            raise OSError(5, "Input/output error")

        patch.setattr(image_files.StoredImages, "_image", failing)
        with pytest.raises(image_files.UserError, match="cannot decode 70 of 70 files"):
            on_disk(folder)
    assert len(on_disk(folder)) == COUNT


def test_skipped_files_and_warnings_are_remembered(folder, decoded, caplog):
    (folder / "b.png").write_bytes(BROKEN["a/truncated.png"][0])
    Image.fromarray(np.full((4, 4), 7, np.int32)).save(folder / "c.tif")
    time.sleep(0.01)
    pixels = np.concatenate([noise(), np.full((1, 4, 4), 7, np.uint8)])
    assert load("train", 4, 1, 1, path=str(folder), on_decode_error="skip").fingerprint() == expected(pixels)
    for _ in range(2):
        notices.warn_once.cache_clear()
        caplog.clear()
        decoded.clear()
        images = on_disk(folder, on_decode_error="skip")
        assert images.fingerprint() == expected(pixels)
        assert "c.tif: its integers have no declared range" in caplog.text
        assert "cannot decode 1 of 72 files: b.png" in caplog.text
    assert not decoded


def test_a_cache_that_cannot_be_written_costs_only_time(folder, own_cache, monkeypatch, caplog):
    (own_cache / "file").write_text("in the way")
    monkeypatch.setenv("DIFFEXP_CACHE", str(own_cache / "file"))
    assert on_disk(folder).fingerprint() == expected(noise())
    assert "cannot be written" in caplog.text


def _load(folder, start, counts):
    examine = image_files.StoredImages._examine

    def counted(self):
        with counts.get_lock():
            counts.value += 1
        time.sleep(0.2)
        return examine(self)

    image_files.StoredImages._examine = counted
    torch.set_num_threads(1)
    start.wait()
    assert on_disk(folder).fingerprint() == expected(noise())


def test_of_several_processes_one_decodes(folder):
    context = multiprocessing.get_context("fork")
    start, counts = context.Event(), context.Value("i", 0)
    processes = [context.Process(target=_load, args=(folder, start, counts)) for _ in range(3)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert counts.value == 1
