"""Checks of what a config needs from the machine; and of counts and sizes that are known without it."""

import json
import os
import re
import zipfile

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from diffexp.config.check import check_experiment, check_request
from diffexp.config.load import load_evaluate_request, load_experiment
from diffexp.errors import UserError


def problem(*overrides, config="digits"):
    """The message of `check_experiment`, or None."""
    try:
        check_experiment(load_experiment(config, overrides))
    except UserError as error:
        return str(error)
    return None


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images" / "cats").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "images" / "cats" / "a.png")
    return tmp_path / "images"


def test_a_ready_config_is_right_here():
    assert problem() is None


def test_folders_and_zips_of_images(tmp_path, images):
    def of(path):
        return problem(f"data.path={path}", config="image_folder")

    assert of(images) is None
    assert re.fullmatch(r"data\.path: expected a folder or zip .*, got .*/none, which does not exist\.", of("/x/none"))
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / ".hidden.png").touch()
    (empty / "notes.txt").touch()
    assert "has no images that PIL can read" in of(empty)
    Image.new("L", (8, 8)).save(empty / "b.png")  # the answer is not remembered
    assert of(empty) is None
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.write(images / "cats" / "a.png")
    assert of(tmp_path / "images.zip") is None
    (tmp_path / "damaged.zip").write_bytes(b"PK\3\4")
    assert "which is neither" in of(tmp_path / "damaged.zip")
    os.mkfifo(tmp_path / "pipe")
    assert "which is neither" in of(tmp_path / "pipe")
    assert problem(f"data.path={images}", "data.test_path=/x/none", config="image_folder").startswith("data.test_path:")


def test_weights_to_start_from(tmp_path):
    assert problem("init=/x/none") == (
        "init: expected a run, a checkpoint or an exported file, got /x/none, which does not exist."
    )
    (tmp_path / "checkpoints").mkdir()
    assert "got " + str(tmp_path) + ". Train the run first." in problem(f"init={tmp_path}")
    (tmp_path / "checkpoints" / "step-00000001.ckpt").touch()
    assert problem(f"init={tmp_path}") is None
    latent = ["data.name=digits", f"model.autoencoder={tmp_path / 'none'}"]
    assert problem(*latent, config="families/digits_latent_diffusion").startswith("model.autoencoder: expected a run")


def test_files_of_extractors_and_references(tmp_path):
    weights = ["score.extractor.name=classifier", f"score.extractor.weights={tmp_path / 'mine.safetensors'}"]
    assert problem(*weights).startswith("score.extractor.weights: expected a file, got ")
    about = {"image_shape": json.dumps([3, 8, 8]), "features": "600"}
    save_file({"a": np.zeros(1)}, tmp_path / "mine.safetensors", about)
    assert problem(*weights).splitlines() == [
        "score.count: expected at least 600 images for the 600 features of classifier, got 500. Use more images, or an "
        "extractor with fewer features.",
        "score.extractor.name: expected an extractor of images (1, 8, 8) (channels, height, width), got classifier, "
        "which takes (3, 8, 8). Use another, or train one with diffexp extractor CONFIG name=…",
    ]
    file = tmp_path / "published.npz"
    assert problem(f"score.reference.file={file}") == f"score.reference.file: there is no file {file}."
    np.savez(file, mu=np.zeros(32))
    assert "expected mu and sigma, got mu." in problem(f"score.reference.file={file}")
    np.savez(file, mu=np.zeros(32), sigma=np.eye(32))
    assert problem(f"score.reference.file={file}") is None
    experiment = load_experiment("digits")
    request = load_evaluate_request(None, ["reference.file=/x/none.npz"], experiment)
    with pytest.raises(UserError, match=r"reference\.file: there is no file /x/none\.npz"):
        check_request(request, experiment)


def test_packages_that_are_not_installed(monkeypatch):
    monkeypatch.setattr("diffexp.config.registry.is_installed", lambda package: package != "mlflow")
    assert problem("loggers=[csv, mlflow]") == (
        "loggers: mlflow: the package mlflow is not installed. Run pip install 'diffexp[mlflow]'."
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("score.count=8", r"command line: score\.count: expected at least 40 images for the 32 features of digits_v1"),
        ("score.extractor.name=inception", r"score\.count: expected at least 2048 images for the 2048 features"),
        (
            "score.reference.count=1618",
            r"score\.reference\.count: expected at most 1617, the images of the train ",
        ),
        ("data.image_size=16", r"score\.extractor\.name: expected an extractor of images \(1, 16, 16\)"),
        ("data.held_out=1617", r"data\.held_out: expected fewer than the 1617 training images of digits, got 1617"),
        ("model.classes=9", r"model\.classes: expected 10, as in the data, or null, got 9"),
        ("training={accelerator: cpu, precision: 16-mixed}", r"training\.precision: expected bf16-mixed, 32-true or"),
    ],
)
def test_counts_and_sizes_that_do_not_fit(override, message):
    with pytest.raises(UserError, match=message):
        load_experiment("digits", [override])


def test_sizes_in_schemas_are_those_of_the_extractors_and_datasets():
    from diffexp.config.schemas.data import DATA
    from diffexp.config.schemas.extractors import EXTRACTORS

    for name in ("digits_v1", "fashion_mnist_v1"):
        built = EXTRACTORS.builder(name)()
        assert EXTRACTORS.schema(name)().sizes() == (built.dim, built.image_shape)
    digits = DATA.schema("digits")()
    splits = [DATA.build(digits, split, 8, 1, 4.0) for split in ("train", "test")]
    assert digits.native_counts == tuple(map(len, splits))
    assert digits.native_classes == len(splits[0].class_names)
