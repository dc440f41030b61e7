"""Select the sample grids that fit into the page."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffexp.runs.reader import RunReader

BUDGET = 24 * 2**20  # bytes of images in a page, encoded in base64


@dataclass(frozen=True)
class Strip:
    """The grids of one sampler of one run.

    Attributes:
        run: the index of the run.
        name: the names of the run and the sampler.
        pictures: (step, file), sorted by step; always includes the last one.
    """

    run: int
    name: str
    pictures: list[tuple[int, Path]]

    def data(self) -> list[tuple[int, str]]:
        """Return (step, image as a data URL) for each grid."""
        return [
            (step, "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode())
            for step, file in self.pictures
        ]


def strips(runs: Sequence[RunReader], budget: int = BUDGET) -> tuple[list[Strip], str]:
    """Select the grids that fit into the budget in bytes, and describe the omitted ones ("" if there are none).

    The last grid of each strip has priority; then each strip gets the same number of evenly spaced earlier ones.
    """
    every = [
        Strip(index, f"{run.label}: {sampler}", list(files.items()))
        for index, run in enumerate(runs)
        for sampler, files in run.grids.items()
    ]
    most = max((len(strip.pictures) for strip in every), default=0)
    for count in range(most, 0, -1):
        chosen = [Strip(each.run, each.name, _spaced(each.pictures, count)) for each in every]
        if sum(map(_size, chosen)) <= budget:
            missing = sum(len(each.pictures) for each in every) - sum(len(each.pictures) for each in chosen)
            return chosen, f"{missing} earlier grids omitted to keep the page small" if missing else ""
    fitting: list[Strip] = []
    for each in every:
        last = Strip(each.run, each.name, each.pictures[-1:])
        if sum(map(_size, fitting)) + _size(last) > budget:
            break
        fitting.append(last)
    omitted = len(every) - len(fitting)
    return fitting, f"grids of {omitted} samplers of later runs omitted to keep the page small" if omitted else ""


def _spaced(pictures: list[tuple[int, Path]], count: int) -> list[tuple[int, Path]]:
    """Return at most `count` grids, evenly spaced, with the last one."""
    if len(pictures) <= count:
        return pictures
    if count == 1:
        return pictures[-1:]
    return [pictures[round(number * (len(pictures) - 1) / (count - 1))] for number in range(count)]


def _size(strip: Strip) -> int:
    return sum(file.stat().st_size for _, file in strip.pictures) * 4 // 3
