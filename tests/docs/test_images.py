"""The picture of docs/guides/comparisons.md, from scores that are known."""

import importlib.util
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats

from diffexp.config.schemas.samplers import DDIMConfig
from diffexp.evaluation.metrics.base import Estimate
from diffexp.evaluation.score_entry import ScoreEntry
from diffexp.evaluation.scores import Scores
from diffexp.evaluation.table import ScoreTable
from diffexp.statistics.influence import Influence

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
    entries = []
    for number, eta in enumerate((0.0, 1.0)):
        means = [Influence.linear(block[number], COUNT) for block in images]
        repeats = [
            Scores(COUNT, {"fd": Estimate(float(block[number].mean()), each.error, 0.0, each)})
            for block, each in zip(images, means, strict=True)
        ]
        sampler = DDIMConfig(steps=5, eta=eta)
        entries.append(ScoreEntry(sampler, sampler.label(), 5, repeats, [1.0] * len(repeats)))
    about = {"name": "x", "step": 1, "weights": "ema", "count": COUNT, "seed": 0, "reference": "r", "extractor": "e"}
    folder = tmp_path / "evaluations" / "paired"
    ScoreTable({**about, "quantisation": "q", "device": "cpu"}, "fd_e_200", "p", entries).write(folder)
    (tmp_path / "config.yaml").write_text("name: x\ndata: {name: digits}\n")
    drawn = []
    difference = picture.difference
    monkeypatch.setattr(picture, "difference", lambda estimates: drawn.append(difference(estimates)) or drawn[-1])
    monkeypatch.setattr(sys, "argv", ["paired.py", str(folder), str(tmp_path / "paired.svg")])
    picture.main()
    assert ElementTree.parse(tmp_path / "paired.svg").getroot().tag.endswith("svg")
    for (one, other), found in zip(images, drawn[3:], strict=True):
        expected = stats.ttest_rel(one, other).confidence_interval(0.95)
        assert found.interval() == pytest.approx((expected.low, expected.high), rel=1e-4)
