"""Classes by name wherever a sampler takes a class."""

import pytest
import torch

import diffexp as package
from diffexp.checkpoints.load import load_trained
from diffexp.config.load import load_experiment
from diffexp.config.schemas.samplers import DDIMConfig, check_class_names
from diffexp.errors import UserError
from tests.helpers.image_places import png, write_folder
from tests.helpers.small import SMALL, diffexp

NAMES = ["cat", "dog", "red fox"]
OF_CLASSES = ["data.name=image_folder", "data.path=images", "data.image_size=8", "data.channels=1", "model.classes=3"]


def write(folder):
    files = {f"{name}/{number}.png": png(15 * number, 8) for name in NAMES for number in range(14)}
    return write_folder(folder / "images", files)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("classes")
    write(cwd)
    grid = "sample_grid.samplers.ddim-5.class_label=red fox"
    diffexp("train", "digits", *SMALL, *OF_CLASSES, grid, "run_dir=run", cwd=cwd)
    return cwd / "run"


def sampled(source, cwd, label):
    """The file that `sample` writes for a class."""
    out = f"{source.name}-{label}.npz"
    words = ["count=2", "sampler.name=ddim", "sampler.steps=2", "weights=ema", f"out={out}"]
    diffexp("sample", str(source), *words, f"sampler.class_label={label}", cwd=cwd)
    return (cwd / out).read_bytes()


@pytest.mark.slow
def test_a_name_is_its_number(trained, tmp_path):
    number, name = (sampled(trained, tmp_path, label) for label in ("2", "red fox"))
    assert number == name != sampled(trained, tmp_path, "cat")


@pytest.mark.slow
def test_an_export_knows_the_names(trained, tmp_path):
    diffexp("export", str(trained), "out=model.safetensors", cwd=tmp_path)
    assert load_trained(tmp_path / "model.safetensors").class_names == NAMES
    assert sampled(tmp_path / "model.safetensors", tmp_path, "dog") == sampled(trained, tmp_path, "1")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_an_unknown_name_is_refused_with_the_nearest(trained, tmp_path, command):
    key = "sampler.class_label=dgo"
    words = ["sampler.name=ddim", key, "extractor.name=digits_v1"] if command == "evaluate" else [key]
    err = diffexp(command, str(trained), *words, cwd=tmp_path, expect=2).stderr
    assert "sampler.class_label: expected one of the 3 classes cat, dog, red fox, got 'dgo'. Did you mean 'dog'?" in err


@pytest.mark.slow
def test_a_table_with_classes_has_their_names(trained, tmp_path):
    rows = "samplers: {a: {name: ddim, class_label: cat}, b: {name: ddim, class_label: 1}}\nsteps: [2]\n"
    (tmp_path / "table.yaml").write_text(rows)
    words = ["--table", "table.yaml", "count=40", "repeats=1", "extractor.name=digits_v1", "out=table"]
    diffexp("evaluate", str(trained), *words, cwd=tmp_path)
    table = (tmp_path / "table" / "table.md").read_text()
    assert "ddim-eta0-classcat" in table
    assert "ddim-eta0-class1" in table


@pytest.mark.slow
def test_python_takes_names(trained):
    model = package.load(trained)
    same = [model.sample("ddim", steps=2, count=2, class_label=label) for label in ("red fox", 2)]
    assert torch.equal(*same)
    with pytest.raises(ValueError, match="Did you mean 'cat'"):
        model.sample("ddim", steps=2, count=2, class_label="cut")


def test_a_training_refuses_an_unknown_name_before_it_starts(tmp_path):
    write(tmp_path)
    wrong = "sample_grid.samplers.ddim-5.class_label=fox"
    err = diffexp("train", "digits", *SMALL, *OF_CLASSES, wrong, "run_dir=run", cwd=tmp_path, expect=2).stderr
    assert "sample_grid.samplers.ddim-5.class_label: expected one of the 3 classes cat, dog, red fox, got 'fox'" in err
    assert not (tmp_path / "run").exists()


def test_a_config_keeps_names_numbers_and_spelling():
    def label(text):
        grid = f"sample_grid.samplers={{one: {{name: ddim, class_label: {text}}}}}"
        wanted = load_experiment("digits", ["model.classes=10", grid]).sample_grid
        assert wanted is not None
        return wanted.samplers["one"].class_label

    assert [label(text) for text in ("cat", "3", "'3'", "n02", "true", "null")] == ["cat", 3, "3", "n02", "true", None]
    for text in ("-1", "10"):
        with pytest.raises(UserError, match="class_label: expected an integer"):
            label(text)


def test_names_of_digits_are_quoted():
    assert DDIMConfig(class_label="5").class_number(["0", "2", "5"]) == 2
    assert DDIMConfig(class_label=1).class_number(["0", "2", "5"]) == 1
    with pytest.raises(UserError, match=r"^it\.class_label: expected a number, because this model's classes have no"):
        check_class_names({"it": DDIMConfig(class_label="cat")}, "", None)
