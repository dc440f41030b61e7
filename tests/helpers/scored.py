"""Recorded evaluations of samplers whose score is the mean of known numbers, one for each image."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from diffexp.config.schemas.samplers import DDIMConfig
from diffexp.evaluation.metrics.base import Estimate
from diffexp.evaluation.score_entry import ScoreEntry
from diffexp.evaluation.scores import Scores
from diffexp.evaluation.table import ScoreTable
from diffexp.statistics.influence import Influence

ABOUT = {"name": "x", "step": 1, "weights": "ema", "reference": "r", "extractor": "e", "quantisation": "q"}


def write_evaluation(
    folder: Path, images: Mapping[float, Sequence[np.ndarray]], seed: int = 0, run: Path | None = None
) -> None:
    """Write the table of an evaluation into a folder of a run: for each η, blocks of numbers of the same images."""
    count = len(next(iter(images.values()))[0])
    entries = []
    for eta, blocks in images.items():
        repeats = []
        for numbers in blocks:
            influence = Influence.linear(numbers, count)
            repeats.append(Scores(count, {"fd": Estimate(float(numbers.mean()), influence.error, 0.0, influence)}))
        sampler = DDIMConfig(steps=5, eta=eta)
        entries.append(ScoreEntry(sampler, sampler.label(), 5, repeats, [1.0] * len(repeats)))
    about = {**ABOUT, "count": count, "seed": seed, "device": "cpu"}
    ScoreTable(about, f"fd_e_{count}", "p", entries).write(folder)
    ((run or folder) / "config.yaml").write_text("name: x\ndata: {name: digits}\n")
