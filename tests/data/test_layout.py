"""What folders around images mean: splits, labels of a dataset.json, classes or nothing."""

import json

import pytest

from diffexp.data.image_folder import load
from diffexp.data.load_images import load_images
from diffexp.errors import UserError
from tests.helpers.image_places import png, values, write_folder, write_zip


@pytest.fixture(params=["folder", "zip"])
def pack(request, tmp_path):
    def write(files):
        if request.param == "zip":
            return write_zip(tmp_path / "images.zip", files)
        return write_folder(tmp_path / "images", files)

    return write


def read(path, split="train", **own):
    return load(split, 4, 1, 1, path=str(path), **own)


def labels(images):
    return None if images.labels is None else images.labels.tolist()


# --- splits

SPLITS = {
    "train/cat/1.png": png(1),
    "train/dog/1.png": png(2),
    "val/cat/1.png": png(3),
    "val/dog/1.png": png(4),
    "test/cat/1.png": png(5),
    "test/dog/1.png": png(6),
}


@pytest.mark.parametrize("around", ["", "set/of/images/"])
def test_split_folders_are_no_classes(pack, around, caplog):
    path = pack({around + name: data for name, data in SPLITS.items()})
    train, test = read(path), read(path, "test")
    assert (values(train), values(test)) == ([1, 2], [5, 6])
    assert train.class_names == test.class_names == ["cat", "dog"]
    assert labels(train) == labels(test) == [0, 1]
    [warning] = caplog.messages  # once
    assert warning.endswith("trains on train (2 images), tests on test (2) and ignores validation (2 images).")


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        *[("train", "val"), ("Train", "Valid"), ("training", "validation"), ("TRAIN", "dev"), ("train", "eval")],
        *[
            ("training_set", "test_set"),
            ("train-images", "val-images"),
            ("train_data", "test_data"),
            ("train", "test1"),
        ],
        *[("train2017", "val2017"), ("seg_train", "seg_test"), ("trainset", "testset"), ("train", "holdout")],
    ],
)
def test_other_words_and_a_validation_folder_for_want_of_a_test_folder(pack, train, held_out):
    path = pack({f"{train}/1.png": png(1), f"{train}/2.png": png(2), f"{held_out}/1.png": png(3)})
    assert values(read(path)) == [1, 2]
    assert values(read(path, "test")) == [3]
    assert labels(read(path)) is None


def test_what_the_config_says_comes_before_the_test_folder(pack, tmp_path):
    files = {f"train/{name}.png": png(name) for name in range(40)} | {"test/1.png": png(99)}
    path = pack(files)
    shares = [values(read(path, split, test_fraction=0.5)) for split in ("train", "test")]
    assert sorted(shares[0] + shares[1]) == list(range(40))
    other = write_folder(tmp_path / "other", {"train/1.png": png(50), "test/1.png": png(51)})
    assert values(read(path, "test", test_path=str(other))) == [51]
    assert len(read(path, test_path=str(other))) == 40


def test_one_train_folder_alone_is_a_folder_around_everything(pack):
    path = pack({"train/cat/1.png": png(1), "train/dog/1.png": png(2)})
    assert read(path).class_names == ["cat", "dog"]
    with pytest.raises(UserError, match="expected a test split, got none"):
        read(path, "test")


def test_a_class_may_be_called_train(pack):
    path = pack({"train/1.png": png(1), "car/1.png": png(2), "dog/1.png": png(3)})
    assert read(path).class_names == ["car", "dog", "train"]
    assert values(read(path)) == [2, 3, 1]


@pytest.mark.parametrize(("one", "other"), [("bullet_train", "test_tube"), ("train", "extra"), ("training", "car")])
def test_words_for_splits_among_others_are_classes(pack, caplog, one, other):
    path = pack({f"{one}/1.png": png(1), f"{other}/1.png": png(2)})
    assert read(path).class_names == sorted([one, other])
    assert ("set data.path to the folder to read" in caplog.text) == (one != "bullet_train")


def test_a_test_folder_with_one_class_of_several(pack):
    files = {name: data for name, data in SPLITS.items() if name != "test/cat/1.png"}
    test = read(pack(files), "test")
    assert (test.class_names, labels(test), values(test)) == (["cat", "dog"], [1], [6])


def test_an_unlabelled_test_folder(pack):
    files = {name: data for name, data in SPLITS.items() if not name.startswith("test")} | {"test/1.png": png(9)}
    path = pack(files)
    assert labels(read(path)) == [0, 1]
    assert (values(read(path, "test")), labels(read(path, "test"))) == ([9], None)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train/1", "test/1", "unlabelled/1"], "expected only the splits test, train.* got unlabelled as well"),
        (["train/1", "test/1", "sample"], r"got sample\.png as well"),
        (["val/1", "test/1"], "expected a train folder next to test, val, got none"),
        (["train/1", "test/1", "val/1", "valid/1"], "expected one folder for each split, got test, train, val, valid"),
        (["cat/train/1", "cat/test/1", "dog/train/1"], "expected splits above classes, as train/cat, got test, train"),
        (
            ["bottle/train/good/1", "bottle/test/bad/1", "bottle/mask/1", "cup/train/1"],
            "above classes, as train/bottle",
        ),
        (["train/cat/1", "test/cow/1", "train/dog/1", "test/dog/1"], "expected the classes of .* got also cow"),
    ],
)
def test_unclear_splits_are_refused(pack, files, message):
    with pytest.raises(UserError, match=message):
        read(pack({f"{name}.png": png(1) for name in files}), "test")


def test_images_to_score_are_one_set(pack):
    with pytest.raises(UserError, match="expected one set of images, got folders of splits"):
        load_images(pack(SPLITS))


# --- dataset.json

INDEXED = ["00000/img00000000.png", "00000/img00000001.png", "00001/img00001000.png", "00001/img00001001.png"]


def indexed(content, around=""):
    """A set as StyleGAN and EDM write it."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return {around + name: png(value) for value, name in enumerate(INDEXED)} | {f"{around}dataset.json": text}


@pytest.mark.parametrize("around", ["", "cifar10/"])
def test_labels_come_from_dataset_json(pack, around, caplog):
    pairs = [[name, label] for name, label in zip(INDEXED, [1, 0, 2, 1], strict=True)]
    images = read(pack(indexed({"labels": [*reversed(pairs), ["gone.png", 7]]}, around)))
    assert (values(images), labels(images)) == ([0, 1, 2, 3], [1, 0, 2, 1])
    assert images.class_names == ["0", "1", "2"]
    assert not caplog.messages


def test_backslashes_in_dataset_json(pack):
    pairs = [[name.replace("/", "\\"), label] for name, label in zip(INDEXED, [1, 0, 0, 1], strict=True)]
    assert labels(read(pack(indexed({"labels": pairs})))) == [1, 0, 0, 1]


def test_labels_are_ordered_as_numbers(pack):
    files = {f"{value:02}.png": png(value) for value in range(12)}
    pairs = [[name, 11 - number] for number, name in enumerate(files)]
    images = read(pack(files | {"dataset.json": json.dumps({"labels": pairs}).encode()}))
    assert labels(images) == list(range(11, -1, -1))  # "10" is not before "2"


def test_labels_with_gaps_are_numbered_in_their_order(pack, caplog):
    pairs = [[name, label] for name, label in zip(INDEXED, [7, 0, 30, 7], strict=True)]
    images = read(pack(indexed({"labels": pairs})))
    assert (images.class_names, labels(images)) == (["0", "7", "30"], [1, 0, 2, 1])
    assert "have gaps: 0, 7, 30" in caplog.text


def test_null_labels_are_none(pack):
    assert labels(read(pack(indexed({"labels": None})))) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": [[INDEXED[0], 0], [INDEXED[1], 1]]}, r"none for 00001/img00001000\.png, .* \(2 of 4 images\)"),
        ({"labels": [[name, [0, 1]] for name in INDEXED]}, r"img00000000\.png: expected a class, .* got \[0, 1\]"),
        ({"labels": [[name, -1] for name in INDEXED]}, "got -1"),
        ({"labels": [[name, 0.5] for name in INDEXED]}, r"got 0\.5"),
        ({"labels": [[name, None] for name in INDEXED]}, "got null"),
        ({"labels": [[name, "cat"] for name in INDEXED]}, 'got "cat"'),
        ({"labels": [[name, True] for name in INDEXED]}, "got true"),
        ({"labels": dict.fromkeys(INDEXED, 0)}, "expected .*or null, got something else"),
        ({"labels": [[name, index] for index in (0, 1) for name in INDEXED]}, "expected one label, got 0 and 1"),
        (b"{", "expected JSON, got"),
        (b"\xff\xff", "expected JSON, got"),
    ],
)
def test_wrong_labels_are_refused(pack, content, message):
    with pytest.raises(UserError, match=rf"dataset\.json.*{message}"):
        read(pack(indexed(content)))


def test_another_dataset_json_is_not_used(pack, caplog):
    files = {"cat/1.png": png(1), "dog/1.png": png(2), "dataset.json": b'{"images": []}'}
    assert read(pack(files)).class_names == ["cat", "dog"]
    assert 'dataset.json has no "labels", so diffexp does not use it' in caplog.text


def test_each_split_may_have_its_dataset_json(pack):
    files = {f"{split}/{name}": data for split in ("train", "test") for name, data in indexed({}).items()}
    for split, numbers in (("train", [0, 1, 2, 0]), ("test", [2, 2, 2, 2])):
        pairs = [[name, number] for name, number in zip(INDEXED, numbers, strict=True)]
        files[f"{split}/dataset.json"] = json.dumps({"labels": pairs}).encode()
    path = pack(files)
    assert labels(read(path)) == [0, 1, 2, 0]
    assert labels(read(path, "test")) == [2, 2, 2, 2]


@pytest.mark.parametrize(
    "names",
    [
        INDEXED,
        ["00000/00000.png", "00000/00999.png", "01000/01000.png"],
        ["00000/000000000.png", "00000/000000001.png", "00001/000010001.png"],
    ],
)
def test_folders_that_number_the_images_are_no_classes(pack, names):
    """As EDM without its dataset.json, as FFHQ, and as img2dataset."""
    assert labels(read(pack({name: png(1) for name in names}))) is None


def test_another_folder_beside_numbering_ones_is_refused(pack):
    path = pack({**{name: png(1) for name in INDEXED}, "preview/cover.png": png(2)})
    with pytest.raises(
        UserError, match=r"expected only folders that number the images, .* got preview/cover\.png as well"
    ):
        read(path)


def test_names_in_a_zip_may_begin_with_a_dot(tmp_path):
    labels_of = {"labels": [[name, number % 2] for number, name in enumerate(INDEXED)]}
    files = {f"./{name}": png(1) for name in INDEXED} | {"./dataset.json": json.dumps(labels_of).encode()}
    assert labels(read(write_zip(tmp_path / "images.zip", files))) == [number % 2 for number in range(len(INDEXED))]


def test_numbers_may_be_classes(pack):
    """As GTSRB has them."""
    path = pack({"00000/00000_00001.ppm.png": png(1), "00001/00000_00001.ppm.png": png(2)})
    assert read(path).class_names == ["00000", "00001"]
    path = pack({"00000/00000.png": png(1), "00001/00000.png": png(2)})
    assert read(path).class_names == ["00000", "00001"]
