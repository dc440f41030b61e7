"""Files of influences, whole and damaged."""

from contextlib import suppress

import numpy as np
import pytest

from diffexp.errors import UserError
from diffexp.runs.influences import read_influences, table_influences, write_influences
from diffexp.runs.validations import RecordedValidation, read_validation, write_validation
from diffexp.statistics.influence import Influence


def test_what_is_written_is_read(tmp_path):
    numbers = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    found = {"ddim/fd": Influence(numbers, 50), "ddim/recall": Influence(numbers[:, :1], 40)}
    write_influences(tmp_path / "a" / "x.npz", found)
    assert read_influences(tmp_path / "a" / "x.npz") == found
    assert read_influences(tmp_path / "none.npz") == {}


def test_rows_with_other_names_have_other_files(tmp_path):
    names = ["ddim-eta0", "ddim-class a/b", "ddim-class a_b"]
    files = {table_influences(tmp_path, name, 5, 0) for name in names}
    assert len(files) == 3
    assert {file.parent for file in files} == {tmp_path / "influences"}


def test_changed_bytes_are_damage_and_no_crash(tmp_path):
    """Also those that make zipfile see another compression, version or encryption."""
    numbers = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    scores, losses = tmp_path / "scores.npz", tmp_path / "step-00000001.npz"
    write_influences(scores, {"fd": Influence(numbers, 40)})
    bits = {"raw": numbers[:, 0], "train": numbers[:, 1]}
    indices = np.arange(40)
    write_validation(RecordedValidation(1, "p", bits, {}, np.zeros(0, np.float32), indices, indices, {}), losses)
    random = np.random.default_rng(1)
    for file in (scores, losses):
        whole = file.read_bytes()
        for _ in range(300):
            damaged = bytearray(whole)
            # headers of the archive and of its arrays are short, so the last part and the first are enough
            place = int(random.choice([*range(120), *range(len(whole) - 400, len(whole))]))
            damaged[place] ^= 1 << int(random.integers(8))
            file.write_bytes(damaged)
            if file is scores:
                read_influences(file)
            else:
                with suppress(UserError):
                    read_validation(file)
        file.write_bytes(whole)
    assert read_influences(scores)
    assert read_validation(losses).step == 1


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive"])
def test_other_files_are_damage(tmp_path, content):
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    assert read_influences(path) == {}
