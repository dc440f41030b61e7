"""W&B's early termination, by hand."""

import pytest

from diffexp.sweeps.search.hyperband import should_stop
from diffexp.sweeps.spec.file import Hyperband, parse_sweep


def bands(**rule):
    command = ["diffexp", "train", "digits", "--trial", "s", "${args_json}"]
    content = {
        "method": "grid",
        "command": command,
        "parameters": {"seed": {"values": [0]}},
        "metric": {"name": "train/loss"},
        "early_terminate": {"type": "hyperband", **rule},
    }
    return parse_sweep(content, "f.yaml").hyperband


def test_bands_are_those_of_the_documentation():
    # the examples in W&B's documentation: max_iter 27, s 2, eta 3 → 9 and 3; min_iter 3, eta 3 → 3, 9, 27, 81
    assert bands(max_iter=27, s=2, eta=3).bands == (3, 9)
    assert bands(min_iter=3).bands[:4] == (3, 9, 27, 81)
    assert bands(min_iter=1, eta=1.5).bands[:5] == (1, 2, 3, 5, 7)
    assert bands(min_iter=3).eta == 3


# five runs, bands at 2 and 3, half of them pass: their second values are 10, 8, 7, 6 and one's own
OTHERS = [[10, 10], [10, 8, 8], [10, 7, 7], [10, 6, 6]]
RULE = Hyperband((2, 3), 2, strict=False)


@pytest.mark.parametrize(
    ("history", "stops"),
    [
        ([10], False),  # no band yet
        ([10, 9], True),  # 6, 7, 8, 9, 10: the threshold is 8
        ([10, 8], False),  # not above it
        ([1, 9], False),  # its best so far counts
        ([10, 8, 9], False),  # at band 2: 6, 7, 8, 9: the threshold is 8, which its best is not above
        ([10, 9, 9], True),
    ],
)
def test_the_worse_ones_stop_at_a_band(history, stops):
    assert should_stop(history, OTHERS, RULE) is stops


def test_strict_looks_at_the_value_at_the_band():
    strict = Hyperband((2, 3), 2, strict=True)
    assert should_stop([1, 9], OTHERS, strict)
    assert should_stop([10, 8, 9], OTHERS, strict)
    assert not should_stop([10, 10, 7], OTHERS, strict)


def test_the_first_to_reach_a_band_goes_on():
    assert not should_stop([5, 5], [], RULE)
    assert not should_stop([5, 5], [[1]], RULE)


def test_values_that_are_not_finite_do_not_count():
    assert should_stop([10, float("nan"), 9], OTHERS, RULE)
    assert not should_stop([10, float("inf"), float("nan")], OTHERS, RULE)


def test_a_run_with_as_many_values_as_a_band_has_reached_it():
    assert should_stop([9], [[1], [1], [1]], Hyperband((1,), 3, strict=False))
