"""Bayesian search from records: repeatable, within its ranges, and better than chance."""

import pytest

from diffexp.errors import UserError
from diffexp.sweeps.search.tpe import PastTrial, ask, check_space
from diffexp.sweeps.spec.file import parse_sweep


def sweep(parameters):
    return parse_sweep(
        {
            "method": "bayes",
            "run_cap": 40,
            "command": ["diffexp", "train", "digits", "--trial", "s", "${args_json}"],
            "metric": {"name": "train/loss"},
            "parameters": parameters,
        },
        "f.yaml",
    )


SPACE = {
    "optim": {"parameters": {"lr": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1.0}}},
    "betas": {"values": [[0.9, 0.99], [0.9, 0.999]]},
    "steps": {"min": 1, "max": 9},
    "share": {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.3},
}


def test_asked_values_lie_in_their_ranges_and_keep_their_types():
    seen = []
    for index in range(15):
        asked = ask(sweep(SPACE), seen, 0, index)
        assert 1e-5 <= asked["optim"]["lr"] <= 1
        assert asked["betas"] in ([0.9, 0.99], [0.9, 0.999])
        assert type(asked["steps"]) is int
        assert min(abs(asked["share"] - 0.3 * step) for step in range(4)) < 1e-12
        seen.append(PastTrial(asked, asked["optim"]["lr"]))
    assert len({each.parameters["optim"]["lr"] for each in seen}) == 15


def test_the_same_records_ask_for_the_same():
    seen = [PastTrial({**ask(sweep(SPACE), [], 0, index)}, value=1.0 / (index + 1)) for index in range(5)]
    seen += [PastTrial(ask(sweep(SPACE), [], 0, 9), None), PastTrial(ask(sweep(SPACE), [], 0, 10), None, failed=True)]
    assert ask(sweep(SPACE), seen, 0, 7) == ask(sweep(SPACE), seen, 0, 7)
    # trials that begin at the same time see the same, and must not be the same
    assert ask(sweep(SPACE), seen, 0, 7) != ask(sweep(SPACE), seen, 0, 8)
    assert ask(sweep(SPACE), seen, 0, 7) != ask(sweep(SPACE), seen, 1, 7)


def test_it_finds_a_minimum_sooner_than_chance():
    space = sweep({"x": {"min": -10.0, "max": 10.0}, "y": {"min": -10.0, "max": 10.0}})
    seen = []
    for index in range(40):
        asked = ask(space, seen, 0, index)
        seen.append(PastTrial(asked, (asked["x"] - 3) ** 2 + (asked["y"] + 2) ** 2))
    # by chance the nearest of 40 points in this square of 400 is within a distance d with 1 - (1 - π d²/400)^40
    assert min(each.value for each in seen) < 1.0  # 27 % by chance
    late = sorted(each.value for each in seen[20:])
    assert late[10] < 40  # the median of the later half; by chance about 64


def test_what_cannot_be_searched_is_told():
    with pytest.raises(
        UserError, match=r"f\.yaml: parameters\.x: expected values or a range with bayes, got normal\. Use random"
    ):
        check_space(sweep({"x": {"distribution": "normal"}}))
