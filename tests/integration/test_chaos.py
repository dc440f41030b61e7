"""A small share of `python -m tests.helpers.chaos --kills 100`, whose processes are forked after all imports."""

import random
import time

import pytest

from tests.helpers import chaos
from tests.helpers.small import start

pytestmark = pytest.mark.slow

SHORTER = ["training.max_steps=150", "sample_grid.every=50"]


def test_killed_at_random_moments_a_run_ends_as_if_it_had_not_been(tmp_path, pytestconfig):
    dice, tally = random.Random(), chaos.Tally()
    started = time.monotonic()
    undisturbed = chaos.reference(tmp_path, *SHORTER)
    seconds = time.monotonic() - started
    while tally.kills < (100 if pytestconfig.getoption("--full") else 3):
        tally.runs += 1
        run = chaos.tormented(tmp_path, f"run-{tally.runs}", 3, dice, tally, seconds, SHORTER, start)
        chaos.compare(run, undisturbed)
