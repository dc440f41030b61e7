"""The files of validations, and what a sequence of them says."""

import subprocess
import sys

import numpy as np
import pytest

from diffexp.errors import UserError
from diffexp.runs.validation_trend import best, comparable, exhausted, overfits
from diffexp.runs.validations import (
    RecordedValidation,
    mean_over_images,
    read_validation,
    read_validations,
    validation_file,
    write_validation,
)

NOISE = np.random.default_rng(0).normal(0, 0.5, 50).astype(np.float32)  # of the images, the same at every step


def recorded(step, value, train=None, ema=True, protocol="p"):
    """Losses around a value, whose change between two steps varies by image."""
    bits = value + NOISE + np.random.default_rng(step).normal(0, 0.05, 50).astype(np.float32)
    sets = {"ema": bits, "raw": bits + 1} if ema else {"raw": bits}
    sets["train"] = (value if train is None else train) + NOISE[:40]
    errors = {name: np.stack([values, values], 1) for name, values in sets.items()}
    levels = np.array([1, -1], np.float32)
    return RecordedValidation(step, protocol, sets, errors, levels, np.arange(50), np.arange(40), {"seed": 0})


@pytest.mark.parametrize("ema", [True, False])
def test_a_file_holds_every_number_and_equal_losses_give_equal_bytes(tmp_path, ema):
    given, path = recorded(7, 3.0, ema=ema), validation_file(tmp_path, 7)
    write_validation(given, path)
    found = read_validation(path)
    assert (found.step, found.protocol, found.details) == (7, "p", {"seed": 0})
    assert found.weights == ("ema" if ema else "raw")
    assert found.bits_per_dim.keys() == given.bits_per_dim.keys() == found.errors.keys()
    for name, bits in given.bits_per_dim.items():
        assert np.array_equal(found.bits_per_dim[name], bits)
        assert np.array_equal(found.errors[name], given.errors[name])
    assert np.array_equal(found.levels, given.levels)
    content = path.read_bytes()
    write_validation(found, path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", "half", "missing"])
def test_a_damaged_file_is_refused_and_skipped(tmp_path, damage):
    for step in (1, 2):
        write_validation(recorded(step, 3.0), validation_file(tmp_path, step))
    path = validation_file(tmp_path, 2)
    if damage == "missing":
        with np.load(path) as arrays:
            kept = {name: arrays[name] for name in arrays.files if name != "bits_ema"}
        np.savez(path, **{**kept, "bits_raw": kept["bits_raw"][:3]})
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if damage == "half" else damage)
    with pytest.raises(UserError, match="expected losses of a validation, got a damaged file"):
        read_validation(path)
    assert [each.step for each in read_validations(tmp_path)] == [1]


def test_reading_needs_no_torch():
    code = "import sys; from diffexp.runs import reader, validations; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_means_have_their_standard_errors_and_pairs_are_far_more_precise():
    one, two = recorded(1, 3.0), recorded(2, 2.9)
    values = one.bits_per_dim["ema"].astype(float)
    assert mean_over_images(values).error == pytest.approx(values.std(ddof=1) / 50**0.5)
    assert two.since(one).value == pytest.approx(two.mean().value - one.mean().value, abs=1e-6)
    assert two.since(one).z < -5
    assert abs(two.mean().value - one.mean().value) < 2 * np.hypot(one.mean().error, two.mean().error)
    assert one.since(one).z == 0
    with pytest.raises(ValueError, match="expected the protocol"):
        one.since(recorded(2, 3.0, protocol="q"))


def test_only_earlier_losses_of_the_same_protocol_and_weights_are_compared():
    last = recorded(5, 3.0)
    others = [recorded(1, 3.0), recorded(2, 3.0, protocol="q"), recorded(3, 3.0, ema=False), recorded(9, 3.0)]
    assert [each.step for each in comparable(others, last)] == [1, 5]


def test_patience_counts_the_validations_since_the_best():
    found = [recorded(step, value) for step, value in enumerate([3.0, 2.0, 2.2, 2.1, 2.3])]
    assert best(found).step == 1
    assert [exhausted(found[:count], 2) is not None for count in range(1, 6)] == [False, False, False, True, True]


RISING = [3.0, 2.0, 2.2, 2.3, 2.4, 2.5]


def test_overfitting_is_reported_once_it_has_lasted_and_only_once():
    found = [recorded(step, value, train=3.0 - 0.3 * step) for step, value in enumerate(RISING)]
    reported = [overfits(found[:count]) for count in range(1, 7)]
    assert [None if each is None else each.step for each in reported] == [None, None, None, None, 1, None]


@pytest.mark.parametrize(
    ("values", "train"),
    [
        (RISING, [3.0, 2.0, 2.2, 2.3, 2.4, 2.5]),  # training diverges: no overfitting
        ([3.0, 2.0, 2.2, 1.9, 2.1, 2.2], [3.0, 2.5, 2.0, 1.5, 1.0, 0.5]),  # interrupted by a new best
        ([3.0, 2.0, 2.001, 2.002, 2.001, 2.002], [3.0, 2.5, 2.0, 1.5, 1.0, 0.5]),  # within the noise
    ],
)
def test_no_other_course_is_reported(values, train):
    found = [recorded(step, *pair) for step, pair in enumerate(zip(values, train, strict=True))]
    assert [overfits(found[:count]) for count in range(1, 7)] == [None] * 6
