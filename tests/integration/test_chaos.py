"""A small share of `python -m tests.helpers.chaos --kills 100`."""

import random
import time

import pytest

from tests.helpers import chaos

pytestmark = pytest.mark.slow


def test_killed_at_random_moments_a_run_ends_as_if_it_had_not_been(tmp_path, pytestconfig):
    dice, tally = random.Random(), chaos.Tally()
    started = time.monotonic()
    undisturbed = chaos.reference(tmp_path)
    seconds = time.monotonic() - started
    while tally.kills < (100 if pytestconfig.getoption("--full") else 3):
        tally.runs += 1
        chaos.compare(chaos.tormented(tmp_path, f"run-{tally.runs}", 5, dice, tally, seconds), undisturbed)
