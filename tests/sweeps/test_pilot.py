"""What `diffexp sweep plan` says about power, against the noncentral t distribution and hand-made results."""

import json
import re
import sys

import numpy as np
import pytest
from scipy import stats

from diffexp.cli.main import main
from diffexp.errors import UserError
from diffexp.statistics.power import detectable_over_seeds
from diffexp.sweeps import pilot
from diffexp.sweeps.pilot import Spread, power_text
from diffexp.sweeps.plan import make_plan
from diffexp.sweeps.spec.file import parse_sweep
from diffexp.sweeps.state import TrialState, write_state

RATES = {"optim": {"parameters": {"lr": {"values": [1e-3, 2e-3]}}}}


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(name="s", values=None, **more):
        """Plan a sweep, whose trials have ended with these values if they are given."""
        content = {
            "method": "grid",
            "command": ["diffexp", "train", "digits", "--trial", name, "${args_json}"],
            "metric": {"name": "train/loss"},
            "parameters": RATES,
            **more,
        }
        made = make_plan(parse_sweep(content, "s.yaml"), 0, tmp_path / "runs" / name)
        for trial, value in zip(made.trials(), values or [], strict=False):
            trial.run.path.mkdir(parents=True)
            trial.run.metrics.write_text(json.dumps({"step": 1, "train/loss": value}) + "\n")
            write_state(trial, TrialState("done"))
        return made

    return make


def test_the_differences_of_the_page_on_results():
    """Two settings and a standard deviation of .09 over seeds, as docs/results/sweeps.md shows."""
    found = [detectable_over_seeds(0.09, seeds, paired=False) for seeds in (2, 3, 5, 10)]
    assert [round(each, 2) for each in found] == [0.51, 0.28, 0.18, 0.12]
    for seeds, each in zip((2, 3, 5, 10), found, strict=True):
        df, shift = 2 * (seeds - 1), each / (0.09 * (2 / seeds) ** 0.5)
        critical = stats.t.isf(0.025, df)
        assert stats.nct.sf(critical, df, shift) + stats.nct.cdf(-critical, df, shift) == pytest.approx(0.8, abs=0.005)


def test_the_trials_of_the_sweep_itself_are_a_pilot(plan):
    # differences of the pairs: 1, 2, 3; so their standard deviation is 1, and that of the residual 1/√2
    made = plan(values=[0.0, 5.0, 7.0, 1.0, 7.0, 10.0], seeds=3)
    head, *table = power_text(made, None).splitlines()
    smallest = detectable_over_seeds(0.5**0.5, 3)
    assert head.startswith(f"detects: differences of {smallest:.2g} between two of 2 settings with 3 seeds each")
    low, high = ((2 / stats.chi2.isf(tail, 2)) ** 0.5 * 0.5**0.5 for tail in (0.025, 0.975))
    assert "a standard deviation of 0.71 over seeds in" in head
    assert f"(df 2: rough; 95 % interval {low:.2g} to {high:.2g})" in head
    assert [re.findall(r"[\d.]+", line) for line in table[2:]] == [
        [str(seeds), str(2 * seeds), f"{detectable_over_seeds(0.5**0.5, seeds):.2g}"] for seeds in (3, 4, 5, 8)
    ]


def test_another_sweep_is_a_pilot(plan, tmp_path):
    plan("pilot", [0.0, 1.0, 2.0, 3.0, 4.0], seeds=5, parameters={"optim": {"parameters": {"lr": {"value": 1e-4}}}})
    text = power_text(plan(seeds=2), "pilot")
    sd = np.std(range(5), ddof=1)
    assert f"a standard deviation of {sd:.2g} over seeds in runs/pilot (df 4; 95 % interval" in text
    assert f"differences of {detectable_over_seeds(sd, 2, paired=False):.2g} between two" in text
    assert "over all pairs" not in text
    three = {"optim": {"parameters": {"lr": {"values": [1e-3, 2e-3, 3e-3]}}}}
    assert "80 % power, two-sided 5 % over all pairs" in power_text(plan("t", seeds=2, parameters=three), "pilot")


def test_settings_with_one_seed_cannot_be_told_apart(plan):
    plan("pilot", [0.0, 1.0], seeds=2, parameters={"optim": {"parameters": {"lr": {"values": [1e-4]}}}})
    made = plan()
    first, second = power_text(made, None).splitlines()
    assert first == ("power: one seed for each setting cannot distinguish a difference from chance; --seeds adds seeds")
    assert second == "power: unknown; --pilot RUN|SWEEP gives the spread over seeds or images"
    assert power_text(made, "pilot").splitlines()[0] == first
    assert "| 2 | 4 |" in power_text(made, "pilot")


def test_more_images_reduce_their_part_of_the_variance():
    spread = Spread(0.5, 8, True, 0.3, "pilot")  # .25 = .16 (seeds) + .09 (images)
    assert spread.with_images(2) ** 2 == pytest.approx(0.16 + 0.045)
    assert spread.with_images(4) ** 2 == pytest.approx(0.16 + 0.0225)
    assert Spread(0.2, 8, True, None, "pilot").with_images(4) == 0.2


def test_the_error_of_images_comes_from_the_scores(plan, monkeypatch):
    made = plan(values=[0.0, 5.0, 7.0, 1.0, 7.0, 10.0], seeds=3)  # the standard deviation is .71
    for error, text in ((0.3, "at best 2×: "), (0.8, "more images would change little")):
        monkeypatch.setattr(pilot, "_image_error", lambda run, value, error=error: error)
        assert text in power_text(made, None).splitlines()[-1]
    smaller = detectable_over_seeds((0.5 - 0.3**2 / 2) ** 0.5, 3)
    monkeypatch.setattr(pilot, "_image_error", lambda run, value: 0.3)
    assert f"2×: {smaller:.2g}, " in power_text(made, None)


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere", "--pilot: expected a run or a planned sweep, got nowhere"), ("empty", "got none in empty")],
)
def test_a_pilot_that_is_none(plan, name, message):
    plan("empty")
    with pytest.raises(UserError, match=message):
        power_text(plan(seeds=2), name)


def test_a_race_and_a_search_have_a_power_too(plan):
    plan("pilot", [0.0, 1.0, 3.0], seeds=3, parameters={"optim": {"parameters": {"lr": {"values": [1e-4]}}}})
    assert "of 2 settings with 4 seeds each, as a grid of run_cap trials" in power_text(
        plan("r", method="race", run_cap=9), "pilot"
    )
    ranges = {"optim": {"parameters": {"lr": {"min": 1e-4, "max": 1e-2}}}}
    random = plan("random", method="random", run_cap=3, parameters=ranges)
    assert power_text(random, "pilot").startswith("power: one seed for each setting")


def test_replicates_have_nothing_to_compare(plan):
    made = plan(values=[1.0, 2.0], seeds=2, parameters={"optim": {"parameters": {"lr": {"value": 1e-3}}}})
    assert power_text(made, None).startswith("power: one setting, so there is nothing to compare; a standard deviation")


def test_the_command_prints_it(plan, monkeypatch, capsys):
    plan(values=[0.0, 5.0, 1.0, 7.0], seeds=2)
    monkeypatch.setattr(sys, "argv", ["diffexp", "sweep", "plan", "runs/s", "--pilot", "s"])
    main()
    assert "detects: differences of" in capsys.readouterr().out
