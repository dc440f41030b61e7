"""Which setting of a sweep is ahead, where several seeds drew its result."""

from types import SimpleNamespace

import pytest

from diffexp.sweeps import results
from diffexp.sweeps.results import Row, as_table, best_setting, settings
from diffexp.sweeps.spec.file import SweepMetric

SWEEP = SimpleNamespace(file=SimpleNamespace(metric=SweepMetric("score/fd")), path="s.yaml")


def trials(monkeypatch, values, goal="minimize"):
    """A sweep with, by learning rate, the value of each seed; None of a trial that failed or waits."""
    rows = []
    for lr, of_seeds in values.items():
        for seed, value in enumerate(of_seeds):
            record = SimpleNamespace(state="done", step=1, seconds=1.0)
            rows.append(Row(len(rows), f"lr={lr},seed={seed}", {"optim.lr": lr, "seed": seed}, record, value))
    monkeypatch.setattr(results, "_known", lambda sweep: rows)
    SWEEP.file.metric = SweepMetric("score/fd", goal)
    return SWEEP


def test_the_best_mean_wins_and_not_the_luckiest_seed(monkeypatch):
    sweep = trials(monkeypatch, {0.1: [0.1, 0.9, 0.8], 0.2: [0.4, 0.5, 0.6]})
    assert [(each.name, each.mean) for each in settings(sweep)] == [
        ("lr=0.2", pytest.approx(0.5)),
        ("lr=0.1", pytest.approx(0.6)),
    ]
    assert best_setting(sweep).summary() == "0.5 ± 0.1, 3 seeds"
    assert [row.index for row in results.rows(sweep)] == [3, 4, 5, 0, 1, 2]  # by seed within a setting
    first = as_table(sweep).splitlines()[2]
    assert first.startswith("| 3 | 0.2 | 0 | 0.4 | 0.5 ± 0.1, 3 seeds | done |")
    assert best_setting(trials(monkeypatch, {0.1: [0.1, 0.9], 0.2: [0.4, 0.5]}, "maximize")).name == "lr=0.1"


def test_a_setting_that_lacks_a_seed_is_behind_those_that_do_not(monkeypatch):
    sweep = trials(monkeypatch, {0.1: [0.1, None, None], 0.2: [0.2, 0.21, 0.19]})
    assert best_setting(sweep).name == "lr=0.2"
    assert [each.summary() for each in settings(sweep)] == ["0.2 ± 0.01, 3 seeds", "0.1, 1 of 3 seeds"]
    assert best_setting(trials(monkeypatch, {0.1: [0.1, None], 0.2: [None, None]})).summary() == "0.1, 1 of 2 seeds"


def test_seeds_alone_have_no_best_one(monkeypatch):
    assert best_setting(trials(monkeypatch, {0.1: [0.1, 0.9]})) is None
    assert best_setting(trials(monkeypatch, {0.1: [0.1]})).summary() == "0.1"
