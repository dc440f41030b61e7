"""The picture of docs/guides/comparisons.md, from scores that are known."""

import importlib.util
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats

from tests.helpers.scored import write_evaluation

SCRIPT = Path(__file__).parents[2] / "docs" / "images" / "paired.py"
COUNT = 200


@pytest.fixture
def picture():
    spec = importlib.util.spec_from_file_location("paired", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_shows_the_paired_t_intervals(picture, tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    images = [[eta + random.normal(size=COUNT) for eta in (0.0, 1.0)] for _ in range(3)]
    for block in images:
        block[1] += block[0]  # the same luck for both
    folder = tmp_path / "evaluations" / "paired"
    write_evaluation(folder, {float(eta): [block[eta] for block in images] for eta in (0, 1)}, run=tmp_path)
    drawn = []
    difference = picture.difference
    monkeypatch.setattr(picture, "difference", lambda estimates: drawn.append(difference(estimates)) or drawn[-1])
    monkeypatch.setattr(sys, "argv", ["paired.py", str(folder), str(tmp_path / "paired.svg")])
    picture.main()
    assert ElementTree.parse(tmp_path / "paired.svg").getroot().tag.endswith("svg")
    for (one, other), found in zip(images, drawn[3:], strict=True):
        expected = stats.ttest_rel(one, other).confidence_interval(0.95)
        assert found.interval() == pytest.approx((expected.low, expected.high), rel=1e-4)
