"""Draw docs/images/paired.svg: blocks of images, of which each gives other scores but the same difference.

diffexp evaluate runs/digits-1 --table evaluate/few_calls out=runs/digits-1/evaluations/paired
python docs/images/paired.py runs/digits-1/evaluations/paired docs/images/paired.svg
"""

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from diffexp.runs.reader import RunReader
from diffexp.statistics.comparison import Difference, compare
from diffexp.statistics.estimates import Estimates
from diffexp.statistics.scores import ScoredBlock, estimate_scores

COLOURS = "tab:blue", "tab:orange"


def difference(estimates: Estimates | None) -> Difference:
    """Return the difference of the two samplers."""
    assert estimates is not None
    return compare(estimates).differences[0, 1]


def unpaired(blocks: tuple[ScoredBlock, ScoredBlock]) -> Estimates:
    """Return the estimates as if the samplers had used other seeds."""
    return Estimates.unpaired(np.array([each.value for each in blocks]), np.array([each.error or 0 for each in blocks]))


def main() -> None:
    """Draw the scores of each block, and the difference that each block shows with and without pairing."""
    folder, out = Path(sys.argv[1]), sys.argv[2]
    run = RunReader(folder.parents[1], "run")
    found = [each for each in run.scores if each.source.parent == folder]
    fewest = min(each.network_calls for each in found)
    scores = [each for each in found if each.network_calls == fewest]
    one, other = (each.scored("fd") for each in scores)
    numbers = np.arange(1, len(one) + 1)
    mpl.rcParams["svg.hashsalt"] = "diffexp"
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", facecolor="white", sharex=True)
    for score, blocks, colour in zip(scores, (one, other), COLOURS, strict=True):
        values, errors = ([getattr(each, key) for each in blocks] for key in ("value", "error"))
        left.errorbar(numbers, values, 1.96 * np.array(errors), color=colour, marker="o", label=score.sampler)
    left.set(ylabel=scores[0].metric, title="each sampler's score", xticks=numbers)
    left.margins(y=0.2)
    left.legend(loc="upper left", ncols=2)
    pairs = list(zip(one, other, strict=True))
    for shift, name, found, colour in (
        (-0.1, "as if from other seeds", [difference(unpaired(pair)) for pair in pairs], "0.6"),
        (0.1, "paired by image", [difference(estimate_scores([[a], [b]])) for a, b in pairs], "tab:green"),
    ):
        middle = np.array([each.value for each in found])
        low, high = np.array([each.interval() for each in found]).T
        right.errorbar(numbers + shift, middle, (middle - low, high - middle), fmt="o", color=colour, label=name)
    right.axhline(0, color="black", linewidth=0.8)
    right.set(title="difference, 95 % intervals")
    right.margins(y=0.2)
    right.legend(loc="upper left", ncols=2)
    figure.supxlabel("block of 500 images")
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    main()
