"""Tables of scores that an earlier evaluation started."""

import pytest

from diffexp.config.schemas.samplers import DDIMConfig
from diffexp.errors import UserError
from diffexp.evaluation.metrics.base import Estimate
from diffexp.evaluation.score_entry import ScoreEntry
from diffexp.evaluation.scores import Scores
from diffexp.evaluation.table import ScoreTable

ABOUT = {"name": "run", "step": 1, "weights": "ema", "count": 2, "reference": "r", "device": "cpu", "seed": 0}
ABOUT |= {"extractor": "e", "quantisation": "q"}


def table(*repeats):
    sampler = DDIMConfig(steps=5)
    return ScoreTable(
        ABOUT, "fd_e_2", "p", [ScoreEntry(sampler, sampler.label(), 5, list(repeats), [1.0] * len(repeats))]
    )


def test_scores_of_an_earlier_evaluation_are_taken_if_they_have_every_metric(tmp_path):
    scores = Scores(2, {"fd": Estimate(1.0, 0.1, 0.5), "kd": Estimate(2.0, 0.1)})
    table(scores).write(tmp_path)
    resumed = table()
    resumed.resume(tmp_path, ["fd", "kd"])
    assert resumed.entries[0].repeats == [scores]
    with pytest.raises(UserError, match=r"expected scores by all metrics, got .* without black_images\. Set out="):
        table().resume(tmp_path, ["fd", "black_images"])


def test_every_metric_with_a_spread_has_a_column_for_it():
    one, two = ({"fd": Estimate(value, 0.1), "recall": Estimate(value / 10)} for value in (1.0, 3.0))
    (record,) = table(Scores(2, one), Scores(2, two)).records()
    assert (record["fd"], record["recall"]) == (2.0, pytest.approx(0.2))
    assert (record["fd_spread"], record["recall_spread"]) == (pytest.approx(2**0.5), pytest.approx(0.2 / 2**0.5))


def test_an_incomplete_column_has_no_marks():
    """ddim has one block, of high values; ddpm also has later ones, of low values: the means are of other images."""
    low, high = ({"fd": Estimate(value, 0.1)} for value in (1.0, 10.0))
    one, other = DDIMConfig(steps=5), DDIMConfig(steps=5, eta=1.0)
    entries = [
        ScoreEntry(one, one.label(), 5, [Scores(2, high)], [1.0]),
        ScoreEntry(other, other.label(), 5, [Scores(2, {"fd": Estimate(10.5, 0.1)}), Scores(2, low)], [1.0] * 2),
    ]
    assert ScoreTable(ABOUT, "fd_e_2", "p", entries).marks() == {}
    entries[0].repeats.append(Scores(2, low))
    assert ScoreTable(ABOUT, "fd_e_2", "p", entries).marks()[one.label(), 5][0] == "best"
