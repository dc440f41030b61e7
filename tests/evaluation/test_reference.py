"""References: what is kept, when it is used again, and what is refused."""

import json
import multiprocessing
import os

import numpy as np
import pytest
import torch

from diffexp.config.schemas.data import DigitsConfig
from diffexp.config.schemas.scoring import ReferenceConfig
from diffexp.data.digits import load
from diffexp.data.images import MemoryImages
from diffexp.errors import UserError
from diffexp.evaluation.extractors.digits_v1 import load as digits_extractor
from diffexp.evaluation.reference import check_reference, read_published, reference
from tests.helpers.sets import digits


def build(cache, images=None, extractor=None, **wanted):
    images = MemoryImages(digits()) if images is None else images
    return reference(
        DigitsConfig(),
        lambda: images,
        ReferenceConfig(cache=str(cache), **wanted),
        extractor or digits_extractor(),
        256,
    )


def files(cache):
    return sorted((cache / "references").glob("*.npz"))


def test_the_second_time_it_is_read(tmp_path, monkeypatch):
    first = build(tmp_path)
    monkeypatch.setattr("diffexp.evaluation.reference.gather", None)  # would fail if called
    second = build(tmp_path)
    assert torch.equal(first.gaussian.cov, second.gaussian.cov)
    assert torch.equal(first.features, second.features)
    assert second.gaussian.count == 1617
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("change", ["pixels", "count", "split", "extractor", "size"])
def test_a_changed_key_never_uses_an_old_file(tmp_path, change):
    class Other:
        """The same network under another digest."""

        def __new__(cls):
            extractor = digits_extractor()
            extractor.identity = {**extractor.identity, "sha256": "0"}
            return extractor

    before = build(tmp_path)
    if change == "pixels":
        images = digits().clone()
        images[800, 0, 0, 0] += 1  # anywhere
        after = build(tmp_path, MemoryImages(images))
    elif change == "count":
        after = build(tmp_path, count=1000)
    elif change == "split":
        after = build(tmp_path, load("test", 8, 1, 1.0), split="test")
    elif change == "extractor":
        after = build(tmp_path, extractor=Other())
    else:
        with pytest.raises(UserError, match=r"digits_v1: expected images \(1, 8, 8\)"):
            build(tmp_path, load("train", 12, 1, 1.0))
        return
    assert before.path != after.path
    assert len(files(tmp_path)) == 2
    assert build(tmp_path).path == before.path


def test_a_file_under_the_name_of_another_is_refused(tmp_path):
    one, other = build(tmp_path), build(tmp_path, count=1000)
    os.replace(other.path, one.path)
    with pytest.raises(UserError, match="its count contradicts its name"):
        build(tmp_path)


def test_a_damaged_file_is_told(tmp_path):
    path = build(tmp_path).path
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(
        UserError, match=r"reference\.cache: .*expected a \.npz of arrays, got: .*Remove it; diffexp recomputes it"
    ):
        build(tmp_path)


def test_others_can_read_ours_and_we_theirs(tmp_path):
    ours = build(tmp_path)
    with np.load(ours.path, allow_pickle=False) as file:  # as pytorch-fid and EDM do
        mu, sigma = file["mu"], file["sigma"]
    features = digits_extractor()(digits()).values.double().numpy()
    np.testing.assert_allclose(mu, features.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(sigma, np.cov(features, rowvar=False), rtol=1e-5, atol=1e-5)
    np.savez(tmp_path / "published.npz", mu=mu, sigma=sigma)
    theirs = read_published(tmp_path / "published.npz", digits_extractor())
    assert torch.equal(theirs.gaussian.cov, ours.gaussian.cov)
    assert theirs.features is None
    assert theirs.gaussian.count is None
    assert read_published(ours.path, digits_extractor()).gaussian.count == 1617


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(32)}, "expected mu and sigma, got mu"),
        ({"mu": np.zeros(2048), "sigma": np.zeros((2048, 2048))}, r"32 features of digits_v1, got mu \(2048,\)"),
        ({"mu": np.full(32, np.nan), "sigma": np.eye(32)}, "expected finite numbers"),
        ({"mu": np.zeros(32), "sigma": -np.eye(32)}, "negative eigenvalues"),
        ({"mu": np.array(["a"] * 32), "sigma": np.eye(32)}, "is damaged"),
        ({"mu": np.zeros(32), "sigma": np.eye(32), "num_images": np.arange(2)}, "is damaged"),
        ({"mu": np.zeros(32), "sigma": np.eye(32), "meta": np.array("no json")}, "is damaged"),
        (
            {"mu": np.zeros(32), "sigma": np.eye(32), "meta": np.array(json.dumps({"extractor": {"name": "x"}}))},
            "got those of another extractor",
        ),
    ],
)
def test_wrong_statistics_are_told(tmp_path, arrays, message):
    np.savez(tmp_path / "wrong.npz", **arrays)
    with pytest.raises(UserError, match=message):
        read_published(tmp_path / "wrong.npz", digits_extractor())


def test_too_few_images_for_the_features_are_told(tmp_path):
    with pytest.raises(UserError, match=r"reference\.count: expected at least 40 images for the 32 features"):
        build(tmp_path, count=20)
    with pytest.raises(UserError, match=r"reference\.count: expected at most 1617, .* train split, got 5000"):
        build(tmp_path, count=5000)


def test_a_cache_that_cannot_be_written_is_told_before_anything_else(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"reference\.cache: expected a writable folder"):
        check_reference(ReferenceConfig(cache=str(tmp_path / "file" / "below")), lambda: None, digits_extractor())
    with pytest.raises(UserError, match=r"cannot be written"):
        build(tmp_path / "file" / "below")


def _build_in_a_process(cache, start):
    torch.set_num_threads(1)
    start.wait()
    build(cache)


def test_two_processes_may_build_the_same_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    start = context.Event()
    processes = [context.Process(target=_build_in_a_process, args=(tmp_path, start)) for _ in range(2)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert [file.name for file in (tmp_path / "references").iterdir()] == [build(tmp_path).path.name]


def test_copies_are_looked_for_among_all_training_images_or_not_at_all(tmp_path):
    assert build(tmp_path).typical is not None
    assert build(tmp_path).typical is not None  # also from the file
    for wanted in ({"count": 300}, {"split": "test"}):
        assert build(tmp_path, **wanted).typical is None


def test_where_images_are_held_does_not_change_what_a_reference_is(tmp_path, monkeypatch):
    from PIL import Image

    from diffexp.data.image_folder import load as load_folder

    monkeypatch.setenv("DIFFEXP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    for index, image in enumerate(digits()[:80]):
        Image.fromarray(image[0].numpy()).save(tmp_path / "images" / f"{index:02d}.bmp")

    def built(memory_gb):
        return build(tmp_path, load_folder("train", 8, 1, memory_gb, path=str(tmp_path / "images")))

    memory, disk = built(1), built(0)
    assert memory.identity == disk.identity
    assert disk.path == memory.path
    Image.fromarray(digits()[90][0].numpy()).save(tmp_path / "images" / "25.bmp")  # of the same size in bytes
    assert built(0).identity == built(1).identity != disk.identity
