"""Which setting of a sweep is ahead, where several seeds drew its result, and which are indistinguishable from it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from diffexp.runs.directory import Run
from diffexp.sweeps import results
from diffexp.sweeps.best import _ties
from diffexp.sweeps.ranking import ranking
from diffexp.sweeps.result_tables import as_json, as_table, as_trial_table
from diffexp.sweeps.results import Row, best_setting, settings
from diffexp.sweeps.spec.file import SweepMetric
from tests.helpers.scored import write_evaluation


def trials(monkeypatch, values, goal="minimize", kind="train"):
    """A sweep with, by learning rate, the value of each seed; None of a trial that failed or waits."""
    rows = []
    for lr, of_seeds in values.items():
        for seed, value in enumerate(of_seeds):
            record = SimpleNamespace(state="failed" if value is None else "done", step=1, seconds=1.0, tries=1)
            parameters = {"optim.lr": lr, "seed": seed}
            rows.append(Row(len(rows), f"lr={lr},seed={seed}", parameters, record, value))
    monkeypatch.setattr(results, "_known", lambda sweep: rows)
    file = SimpleNamespace(metric=SweepMetric("score/fd", goal), command=SimpleNamespace(kind=kind), method="grid")
    return SimpleNamespace(file=file, path="s.yaml", trial=lambda index: SimpleNamespace(run=None))


def lines(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_the_best_mean_wins_and_not_the_luckiest_seed(monkeypatch):
    sweep = trials(monkeypatch, {0.1: [0.1, 0.9, 0.8], 0.2: [0.4, 0.5, 0.6]})
    assert [(each.name, each.mean) for each in settings(sweep)] == [
        ("lr=0.2", pytest.approx(0.5)),
        ("lr=0.1", pytest.approx(0.6)),
    ]
    # t(2, 97.5 %) = 4.303, sd .1: half the width is 4.303 × .1 / √3 = .2484
    assert best_setting(sweep).summary() == "0.5 (0.2516 to 0.7484), 3 seeds"
    assert [row.index for row in results.rows(sweep)] == [3, 4, 5, 0, 1, 2]  # by seed within a setting
    assert best_setting(trials(monkeypatch, {0.1: [0.1, 0.9], 0.2: [0.4, 0.5]}, "maximize")).name == "lr=0.1"


def test_differences_from_the_best_are_paired_by_seed(monkeypatch):
    values = {0.1: [1.0, 2.1, 3.05], 0.2: [1.3, 2.35, 3.32]}
    sweep = trials(monkeypatch, values)
    ranked = ranking(sweep)
    paired = stats.ttest_rel(values[0.2], values[0.1])
    difference = ranked.differences[1]
    assert difference.value == pytest.approx(np.mean(values[0.2]) - np.mean(values[0.1]))
    assert (difference.p, difference.df) == (pytest.approx(paired.pvalue), paired.df)
    assert difference.interval() == pytest.approx(tuple(paired.confidence_interval()))
    assert ranked.ties == []  # although the intervals of the means overlap
    assert [each.interval[0] < 2.2 < each.interval[1] for each in ranked.settings] == [True, True]
    higher = ranking(trials(monkeypatch, values, "maximize"))
    assert higher.settings[0].name == "lr=0.2"
    assert higher.differences[1].value == pytest.approx(-difference.value)


def test_the_table_has_a_row_for_each_setting(monkeypatch):
    sweep = trials(monkeypatch, {0.1: [0.1, 0.9, 0.8], 0.2: [0.4, 0.5, 0.6], 0.3: [9.4, 9.5, None]})
    head, _, first, second, third, *below = lines(as_table(sweep))
    assert head == ["trials", "lr", "score/fd, mean", "95 % interval", "seeds", "state", "seconds"]
    assert first == ["3–5", "0.2", "**0.5**", "0.2516 to 0.7484", "3", "done", "3"]
    low, high = stats.t.interval(0.95, 2, np.mean([0.1, 0.9, 0.8]), stats.sem([0.1, 0.9, 0.8]))
    assert second == ["0–2", "0.1", "0.6 =", f"{low:.4g} to {high:.4g}", "3", "done", "3"]
    assert third[2:6] == ["9.45", "8.815 to 10.09", "2 of 3", "2 done, 1 failed"]
    assert "indistinguishable from it (paired by 3 seeds; 5 % over all pairs)" in below[-1][0]
    assert "Settings that lack seeds are not compared." in below[-1][0]
    assert lines(as_trial_table(sweep))[2] == ["3", "0.2", "0", "0.4", "done", "1", "1"]
    assert [each["setting"] for each in json.loads(as_json(sweep))][::3] == ["lr=0.2", "lr=0.1", "lr=0.3"]


def test_one_seed_each_tells_nothing_apart(monkeypatch):
    sweep = trials(monkeypatch, {0.1: [0.1], 0.2: [0.4]})
    head, _, first, *_, below = lines(as_table(sweep))
    assert head == ["trials", "lr", "score/fd", "state", "seconds"]
    assert first == ["0", "0.1", "0.1", "done", "1"]
    (line,) = below
    assert line.startswith("Each setting has one seed. Without further seeds, they cannot be distinguished.")
    assert line.endswith("Add seeds: diffexp sweep extend s.yaml --seeds 3.")
    assert _ties(ranking(sweep)) == ["one seed each: indistinguishable from it without further ones"]
    assert "one image seed." in as_table(trials(monkeypatch, {0.1: [0.1], 0.2: [0.4]}, kind="evaluate"))


def test_the_best_config_names_what_cannot_be_told_from_it(monkeypatch):
    sweep = trials(monkeypatch, {0.1: [0.1, 0.9, 0.8], 0.2: [0.4, 0.5, 0.6], 0.3: [9.4, 9.5, 9.6]})
    difference = ranking(sweep).differences[1]
    low, high = difference.interval()
    assert low < 0.1 < high
    head, line = _ties(ranking(sweep))
    assert head == "settings that are indistinguishable from it (paired by 3 seeds):"
    assert line.startswith(f"  lr=0.1: +0.1 (95 % interval {low:.4g} to {high:.4g}), p = ")
    apart = trials(monkeypatch, {0.1: [1.0, 1.1, 1.2], 0.2: [9.0, 9.1, 9.21]})
    assert _ties(ranking(apart)) == ["every other complete setting differs from it significantly (paired by 3 seeds)"]


def test_a_setting_that_lacks_a_seed_is_behind_those_that_do_not(monkeypatch):
    sweep = trials(monkeypatch, {0.1: [0.1, None, None], 0.2: [0.2, 0.21, 0.19]})
    assert best_setting(sweep).name == "lr=0.2"
    assert [each.summary() for each in settings(sweep)] == ["0.2 (0.1752 to 0.2248), 3 seeds", "0.1, 1 of 3 seeds"]
    assert "Settings that lack seeds are not compared. 95 %" in as_table(sweep)
    assert "**" not in as_table(sweep)
    assert best_setting(trials(monkeypatch, {0.1: [0.1, None], 0.2: [None, None]})).summary() == "0.1, 1 of 2 seeds"


def test_seeds_alone_have_no_best_one(monkeypatch):
    assert best_setting(trials(monkeypatch, {0.1: [0.1, 0.9]})) is None
    assert best_setting(trials(monkeypatch, {0.1: [0.1]})).summary() == "0.1"


def test_a_trial_that_was_drawn_twice_is_one_replicate(monkeypatch):
    sweep = trials(monkeypatch, {0.1: [0.1, 0.3], 0.2: [0.2]})
    again = results._known(sweep)[0]
    monkeypatch.setattr(results, "_known", lambda sweep, before=results._known: [*before(sweep), again])
    twice = next(each for each in settings(sweep) if each.name == "lr=0.1")
    assert (len(twice.rows), twice.seeds, twice.mean) == (3, 2, pytest.approx(0.2))


def test_samplers_of_one_training_are_paired_by_their_images(monkeypatch, tmp_path):
    """One image seed each is enough, as the same images decide."""
    random = np.random.default_rng(0)
    luck = 5 * random.normal(size=300)
    images = {eta: luck + eta + random.normal(size=300) for eta in (0.0, 0.5)}
    for number, (eta, numbers) in enumerate(images.items()):
        write_evaluation(tmp_path / str(number), {eta: [numbers]})
    sweep = trials(monkeypatch, {eta: [float(numbers.mean())] for eta, numbers in images.items()}, kind="evaluate")
    sweep.file.metric = SweepMetric("score/fd_e_300")
    sweep.trial = lambda index: SimpleNamespace(run=Run(tmp_path / str(index)))
    (difference,) = ranking(sweep).differences.values()
    expected = stats.ttest_rel(images[0.5], images[0.0])
    assert difference.p == pytest.approx(expected.pvalue, rel=1e-3)
    assert "paired over 300 images" in as_table(sweep)
    sweep.file.metric = SweepMetric("seconds")
    assert ranking(sweep).differences == {}
